"""An S3 server for the tests of remote shards."""

from __future__ import annotations

import os

import pytest

from tests.data import s3server


@pytest.fixture(scope="package")
def s3_server():
    """The running server; the environment names it as `s3://`'s endpoint."""
    if not s3server.program():
        pytest.skip("moto_server is not installed (make s3)")
    server = s3server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_REGION", "us-east-1")
        yield server
    server.stop()
