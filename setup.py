"""Only what pyproject.toml cannot say: the folder conf/ is shipped as the package vstrain.conf."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vstrain*", "data_pipelines*", "launch*"]), "vstrain.conf"],
    package_dir={"vstrain.conf": "conf"},
)
