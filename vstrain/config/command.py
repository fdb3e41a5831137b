"""From the words after the verb to a validated configuration: the one way in for every verb."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from hydra.core.override_parser.types import Override
from pydantic import BaseModel

from vstrain.config.compose import Composer, config_dirs
from vstrain.config.problems import ConfigError, Problem
from vstrain.config.validate import validate

MOST_CHECKED = 64  # jobs of a sweep that are checked before the first one starts

Check = Callable[[BaseModel, Callable[[str], str]], list[Problem]]  # (config, origin of a path) -> further problems


class Command:
    """argv of one call, with the user's config folders taken out and flags told from overrides."""

    def __init__(
        self,
        config_name: str,
        model: type[BaseModel],
        argv: list[str],
        check: Check = lambda config, origin: [],
    ):
        self.config_name, self.model, self.check = config_name, model, check
        self.dirs, rest = config_dirs(argv)
        self.flags, self.overrides = split_flags(rest)
        self.root = Path("runs")  # run.root of a sweep's first job, once that is checked

    def config(self) -> BaseModel:
        """The validated configuration. Raises ConfigError with all problems."""
        with Composer(self.config_name, self.overrides, self.dirs) as composer:
            return self._checked(composer, composer.loose())

    def check_sweep(self) -> list[str]:
        """Validate the jobs of a sweep (the first MOST_CHECKED); returns the overrides to hand to Hydra."""
        with Composer(self.config_name, self.overrides, self.dirs) as composer:
            loose = composer.loose()
            choices = []
            for text, override in zip(loose, composer.overrides, strict=True):
                if override.is_sweep_override():
                    key = text.partition("=")[0]
                    choices.append([f"{key}={value}" for value in sweep_values(override)])
                elif not override.key_or_group.startswith("hydra"):
                    choices.append([text])
            found: dict[str, Problem] = {}
            for job in itertools.islice(itertools.product(*choices), MOST_CHECKED):
                try:
                    self.root = Path(self._checked(composer, list(job)).run.root)
                except ConfigError as error:
                    found |= {str(problem): problem for problem in error.problems}
            if found:
                raise ConfigError(list(found.values()))
            return loose

    def _checked(self, composer: Composer, overrides: list[str]) -> BaseModel:
        def origin(path: str) -> str:
            return composer.origin(path, overrides)

        problems = list(composer.problems)
        try:
            config = validate(composer.compose(overrides), self.model, origin)
            problems += self.check(config, origin)
        except ConfigError as error:
            # without a choice that could not be made, keys are missing for that reason alone
            problems += [problem for problem in error.problems if not (problem.missing and composer.problems)]
        if problems:
            raise ConfigError(problems)
        return config

    def validate_composed(self, node) -> BaseModel:
        """A configuration that Hydra composed itself (a job of a sweep)."""
        return validate(node, self.model)


def sweep_values(override: Override) -> Iterator[str]:
    """What a sweep gives a key; of an interval, which a sampler draws from, the ends."""
    if override.is_interval_sweep():
        interval = override.value()
        return iter([str(interval.start), str(interval.end)])
    return override.sweep_string_iterator()


FLAGS_WITH_VALUE = {"--cfg", "-c", "--info", "-i", "--package", "-p", "--experimental-rerun"}


def split_flags(argv: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags (with their values) and the overrides."""
    flags, overrides, arguments = [], [], iter(argv)
    for argument in arguments:
        if argument in ("-sc", "--shell-completion"):
            return [*flags, argument], list(arguments)
        if argument in FLAGS_WITH_VALUE:
            flags.append(argument)
            value = next(arguments, None)
            flags += [value] if value is not None else []
        elif argument.startswith("-"):
            flags.append(argument)
        else:
            overrides.append(argument)
    return flags, overrides


def search_path(dirs: list[Path]) -> list[str]:
    """The override that shows Hydra the user's config folders."""
    listed = ",".join(f"file://{Path(path).expanduser().absolute()}" for path in dirs)
    return [f"hydra.searchpath=[{listed}]"] if dirs else []
