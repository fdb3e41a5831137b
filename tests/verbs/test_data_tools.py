"""`vstrain data index|verify|repair|inspect|stats` as commands: words, exit codes, what is written and printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data import kinds_made as made
from vstrain.config.problems import InputError
from vstrain.data.index import Index
from vstrain.verbs import data, shards


def damage(urls: list[str]) -> None:
    content = bytearray(Path(urls[0]).read_bytes())
    content[520] ^= 1  # in the first member
    Path(urls[0]).write_bytes(content)


def test_each_tool_has_help(capsys):
    assert data.main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name, tool in shards.TOOLS.items():
        assert name in listed
        assert data.main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert all(f"{key}=" in text for key in tool.options) and "URLS" in text and "Exit codes" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["verfy", "x.tar"], "did you mean verify?"),
        (["verify"], "no shards are named"),
        (["verify", "x.tar", "procesess=2"], "did you mean processes?"),
        (["verify", "x.tar", "--fast"], "no such flag"),
        (["verify", "x.tar", "processes=0"], "expected processes=N"),
        (["verify", "x.tar", "decode=maybe"], "expected decode=true|false"),
        (["verify", "x.tar", "kind=video"], "expected kind=KIND"),
        (["repair", "x.tar"], "out= is missing"),
        (["repair", "x.tar", "out="], "expected out=FOLDER"),
        (["inspect", "x.tar", "samples=many"], "expected samples=N"),
        (["stats", "nowhere/x.tar"], "no such shard"),
        (["stats", "nowhere/*.tar"], "no shard matches"),
    ],
)
def test_wrong_words_are_one_sentence(words, sentence):
    with pytest.raises(InputError) as error:
        data.main(words)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_an_address_with_an_equals_sign(tmp_path):
    assert shards.parse("verify", ["./a=b.tar", "s3://a/x=y/{0..3}.tar"])[0] == ["./a=b.tar", "s3://a/x=y/{0..3}.tar"]


def test_index(tmp_path, capsys):
    urls = made.write(tmp_path, "depth", index=False)
    assert data.main(["index", str(tmp_path / "*.tar"), "processes=2"]) == 0
    one, two = (Index.build(urls), Index.saved(urls))
    assert one.fingerprint == two.fingerprint and one.shards == two.shards
    assert "12 samples in 3 shards" in capsys.readouterr().out and len(list(tmp_path.glob(".*-index"))) == 1
    assert data.main(["index", *urls, f"out={tmp_path / 'mine'}"]) == 0 and (tmp_path / "mine").is_file()
    content = bytearray(Path(urls[1]).read_bytes())
    content[3] ^= 1
    Path(urls[1]).write_bytes(content)
    assert data.main(["index", *urls, "processes=1"]) == 1
    assert "damaged header" in capsys.readouterr().out


def test_verify_and_repair(tmp_path, capsys):
    urls = made.write(tmp_path / "a", "depth")
    words = [str(tmp_path / "a" / "train-{000000..000002}.tar"), "processes=1"]
    assert data.main(["verify", *words]) == 0 and "sound" in capsys.readouterr().out
    damage(urls)
    assert data.main(["verify", *words, f"out={tmp_path / 'f.jsonl'}"]) == 1
    said = capsys.readouterr().out
    assert said.count(made.key(0)) == 1 and "vstrain data repair" in said
    assert [json.loads(x)["key"] for x in (tmp_path / "f.jsonl").read_text().splitlines()] == [made.key(0)]
    assert data.main(["repair", *words, f"out={tmp_path / 'b'}"]) == 0
    assert "11 samples kept, 1 left out" in capsys.readouterr().out
    assert data.main(["verify", str(tmp_path / "b" / "*.tar"), "processes=1"]) == 0
    assert data.main(["verify", *words, "kind=story"]) == 1 and "member mp4 is missing" in capsys.readouterr().out


def test_inspect_and_stats(tmp_path, capsys):
    made.write(tmp_path, "depth")
    for tool in ("inspect", "stats"):
        picture = tmp_path / f"{tool}.png"
        assert data.main([tool, str(tmp_path / "*.tar"), f"out={picture}", "samples=3"]) == 0
        said = capsys.readouterr().out
        assert "12 samples" in said and str(picture) in said and picture.read_bytes()[:4] == b"\x89PNG"


def test_as_a_command(vstrain, tmp_path):
    urls = made.write(tmp_path / "a", "depth")
    assert "sound" in vstrain("data", "verify", *urls, "processes=2").stdout
    damage(urls)
    assert made.key(0) in vstrain("data", "verify", *urls, "processes=2", code=1).stdout
    assert "did you mean inspect?" in vstrain("data", "inspct", code=2).stderr
    vstrain("data", "inspect", *urls, "samples=2")
    assert (tmp_path / "sheet.png").is_file()


def test_no_torch(tmp_path):
    import subprocess
    import sys

    made.write(tmp_path, "depth")
    code = (
        "import sys; from vstrain.verbs import data\n"
        f"for t, w in (('verify', 'processes=1'), ('inspect', 'out={tmp_path}/a.png'), ('stats', 'out={tmp_path}/b.png')):\n"
        f"    data.main([t, r'{tmp_path}/*.tar', w])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
