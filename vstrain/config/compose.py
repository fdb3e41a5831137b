"""Overrides to one configuration, by Hydra, with the origin of every key at hand.

Value overrides are handed to Hydra as forced ones (`++key=value`), so that it never stops at the first unknown key:
`validate` reports all of them. Group choices are checked here.
"""

from __future__ import annotations

import os
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vstrain.config.problems import ConfigError, Problem, nearest
from vstrain.config.rundir import CONF


class Composer:
    """One config root (`config_name`) with the user's overrides; use as a context manager."""

    def __init__(self, config_name: str, overrides: list[str], config_dirs: list[Path] = ()):
        self.config_name, self.texts = config_name, list(overrides)
        self.config_dirs = [Path(path).expanduser().absolute() for path in config_dirs]

    def __enter__(self) -> Composer:
        check_folders(self.config_dirs)
        GlobalHydra.instance().clear()
        self._context = initialize_config_module("vstrain.conf", version_base="1.3", job_name="vstrain")
        self._context.__enter__()
        self.loader = GlobalHydra.instance().config_loader()
        for path in self.config_dirs:
            self.loader.get_search_path().prepend("user", f"file://{path}", anchor="schema")
        self.loader.repository.initialize_sources(self.loader.get_search_path())
        self.problems: list[Problem] = []  # in the overrides themselves; the rest of them is still composed
        self.overrides = self._parse()
        return self

    def __exit__(self, *error) -> None:
        self._context.__exit__(*error)
        GlobalHydra.instance().clear()

    # ---- overrides ------------------------------------------------------------------------------------------------

    def _parse(self) -> list[Override]:
        parser, good = OverridesParser.create(), {}
        for text in self.texts:
            try:
                override = parser.parse_override(text)
            except HydraException as error:
                hint = "expected key=value" if "=" not in text else str(error).splitlines()[0]
                self.problems.append(Problem(text, hint, "command line"))
                continue
            wrong = self._check_choice(override) if self.is_group(override) else self._check_name(override)
            self.problems += wrong
            if not wrong:
                good[text] = override
        self.texts = list(good)
        return list(good.values())

    def is_group(self, override: Override) -> bool:
        return "/" in override.key_or_group or bool(
            self._options(override.key_or_group) and override.key_or_group not in self._foreign_groups()
        )

    def _foreign_groups(self) -> list[str]:
        """Groups of the training root that this root does not compose: there, their names mean nothing."""
        defaults = self.loader.repository.load_config(self.config_name).defaults_list
        own = {default.group for default in defaults if hasattr(default, "group")}
        return [] if self.config_name == "train" else [g for g in self.loader.list_groups("") if g not in own]

    def _check_name(self, override: Override) -> list[Problem]:
        """A key with the name of a foreign group cannot reach the validation: Hydra would look for a file."""
        key = override.key_or_group
        if key not in self._foreign_groups():
            return []
        keys = [str(name) for name in self.loader.repository.load_config(self.config_name).config]
        return [Problem(key, f"no such key; {nearest(key, keys)}", f"override {override.input_line!r}")]

    def _options(self, group: str) -> list[str]:
        return self.loader.get_group_options(group)

    def _check_choice(self, override: Override) -> list[Problem]:
        group, options = override.key_or_group, self._options(override.key_or_group)
        values = override.sweep_string_iterator() if override.is_sweep_override() else [override.value()]
        return [
            Problem(
                group,
                f"no choice {value!r}; {nearest(str(value), options)}",
                f"override {override.input_line!r}",
            )
            for value in values
            if value is not None and not isinstance(value, list) and str(value) not in options
        ]

    def loose(self) -> list[str]:
        """The overrides as Hydra gets them: value overrides forced, so that unknown keys reach the validation."""
        out = []
        for text, override in zip(self.texts, self.overrides, strict=True):
            free = self.is_group(override) or override.is_delete() or override.key_or_group.startswith("hydra")
            out.append(text if free else "++" + text.lstrip("+"))
        return out

    # ---- composing ------------------------------------------------------------------------------------------------

    def compose(self, overrides: list[str] | None = None) -> DictConfig:
        """The composed configuration with `run.experiment` filled in."""
        overrides = self.loose() if overrides is None else overrides
        try:
            config = hydra_compose(self.config_name, overrides=overrides, return_hydra_config=True)
            choices = OmegaConf.to_container(config.hydra.runtime.choices)
        except (HydraException, OmegaConfBaseException, YAMLError) as error:
            raise ConfigError([Problem(self.config_name, " ".join(str(error).split()))]) from error
        OmegaConf.set_struct(config, False)
        del config["hydra"]
        if "run" in config:
            config.run.experiment = choices.get("experiment") or choices.get("system") or self.config_name
        return config

    def origin(self, path: str, overrides: list[str]) -> str:
        """Which override or file sets `path`, for an error message; '' when nothing does."""
        for text in reversed(overrides):
            key = text.lstrip("+~").partition("=")[0].partition("@")[0]
            if path == key or path.startswith(key + ".") or key.startswith(path + "."):
                return f"override {text.lstrip('+')!r}"
        defaults = self.loader.compute_defaults_list(self.config_name, overrides, RunMode.RUN).defaults
        for default in reversed(defaults):
            if default.config_path is None or default.config_path.startswith("hydra/"):
                continue
            package = f"{default.package}." if default.package else ""
            loaded = self.loader.repository.load_config(default.config_path)
            if loaded is None or not path.startswith(package):
                continue
            if _has(loaded.config, path.removeprefix(package)):
                return self._file(default.config_path)
        return ""

    def _file(self, config_path: str) -> str:
        for folder in self.config_dirs:
            if (folder / f"{config_path}.yaml").is_file():
                return str(folder / f"{config_path}.yaml")
        return f"conf/{config_path}.yaml"


def check_folders(folders: list[Path]) -> None:
    """The user's config folders exist, and no file of theirs has the name of a packaged one."""
    problems = []
    for folder in folders:
        if not folder.is_dir():
            problems.append(Problem("--config-dir", f"{folder} is not a directory; expected a folder of YAML files"))
        for file in sorted(folder.rglob("*.yaml")):
            if (CONF / file.relative_to(folder)).exists():
                sentence = f"{file} has the name of a packaged file, which would win; rename it"
                problems.append(Problem("--config-dir", sentence))
    if problems:
        raise ConfigError(problems)


def _has(config: DictConfig, path: str) -> bool:
    node = OmegaConf.to_container(config, resolve=False)
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def config_dirs(argv: list[str]) -> tuple[list[Path], list[str]]:
    """The user's config folders (`--config-dir DIR`, `VSTRAIN_CONF`) and the arguments that are left."""
    dirs, rest, arguments = [], [], iter(argv)
    for argument in arguments:
        if argument in ("--config-dir", "-cd"):
            dirs.append(Path(next(arguments, "")))
        elif argument.startswith("--config-dir="):
            dirs.append(Path(argument.partition("=")[2]))
        else:
            rest.append(argument)
    dirs += [Path(path) for path in os.environ.get("VSTRAIN_CONF", "").split(os.pathsep) if path]
    return dirs, rest
