"""A composed configuration against its schema: every mistake at once, with its place and what was expected."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError, create_model

from vstrain.config import rundir
from vstrain.config.problems import ConfigError, Problem, nearest
from vstrain.config.schema import SystemConfig, TrainConfig

Origin = Callable[[str], str]


def validate(config: DictConfig | dict, model: type[BaseModel], origin: Origin = lambda path: "") -> BaseModel:
    """`config` as an instance of `model`. The node `system`, if there is one, is checked against the Config of its module.
    Raises ConfigError with every problem."""
    try:
        values = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    except OmegaConfBaseException as error:
        raise ConfigError(
            [Problem(str(getattr(error, "full_key", "") or "config"), str(error).splitlines()[0])]
        ) from error
    problems: list[Problem] = []
    if "system" in model.model_fields:
        model = with_system(model, values, problems, origin)
    unset = set(_unset(values))
    problems += [
        Problem(path, f"missing; set {path}=… ({_expected(model, path)})", origin(path), missing=True)
        for path in sorted(unset)
    ]
    try:
        checked = model.model_validate(values)
    except ValidationError as error:
        found = [problem(detail, model, origin) for detail in error.errors()]
        problems += [one for one in found if one.path not in unset]
    if problems:
        raise ConfigError(problems)
    return checked


def trained(run_dir: Path, changes: dict) -> TrainConfig:
    """The configuration of a training run, with a job's `system.*` changes, merged key by key."""
    values = rundir.load(run_dir)
    values["system"] = OmegaConf.to_container(OmegaConf.merge(values["system"], changes))
    return validate(values, TrainConfig)


def with_system(model: type[BaseModel], values: dict, problems: list[Problem], origin: Origin) -> type[BaseModel]:
    """`model` with the field `system` typed as the Config class of the named system package."""
    name = (values.get("system") or {}).get("module")
    if not isinstance(name, str):
        return model
    try:
        config_class = importlib.import_module(f"{name}.config").Config
    except (ImportError, AttributeError) as error:
        problems.append(
            Problem(
                "system.module",
                f"cannot use {name!r} ({error}); expected a Python package with config.py that "
                "holds a class Config, importable from here",
                origin("system.module"),
            )
        )
        return create_model(model.__name__, __base__=model, system=(dict, ...))
    if not issubclass(config_class, SystemConfig):
        problems.append(
            Problem("system.module", f"{name}.config.Config must inherit from vstrain.config.schema.SystemConfig")
        )
    return create_model(model.__name__, __base__=model, system=(config_class, ...))


def _unset(node: dict, prefix: str = "") -> Iterator[str]:
    """Paths of the values that nothing has set: Hydra's `???`."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from _unset(value, f"{prefix}{name}.")
        elif value == "???":
            yield f"{prefix}{name}"


def _expected(model: type[BaseModel], path: str) -> str:
    """What the key at `path` takes, in the words of its type."""
    *parents, name = path.split(".")
    parent = _model_at(model, parents)
    if parent is None or name not in parent.model_fields:
        return "it has no default"
    try:
        parent.__pydantic_validator__.validate_assignment(parent.model_construct(), name, object())
    except ValidationError as error:
        return _wanted(error.errors()[0]).partition(", unable")[0]
    return "it has no default"


def problem(detail: dict, model: type[BaseModel], origin: Origin, prefix: str = "") -> Problem:
    """A pydantic error as a Problem; `prefix`: where `model` stands in the whole configuration, with its last dot."""
    loc, parent = _walk(model, [str(part) for part in detail["loc"]]) if detail["loc"] else ([], None)
    path = prefix + ".".join(loc) or "config"
    if detail["type"] == "union_tag_invalid":
        return Problem(f"{path}.name", f"expected one of {detail['ctx']['expected_tags']}", origin(f"{path}.name"))
    if detail["type"] == "extra_forbidden":
        siblings = (
            [path.rpartition(".")[0] + "." * ("." in path) + name for name in parent.model_fields] if parent else []
        )
        return Problem(path, f"no such key; {nearest(path, siblings)}", origin(path))
    if detail["type"] == "missing":
        return Problem(path, f"missing; set {path}=… ({_expected(model, '.'.join(loc))})", origin(path), missing=True)
    if detail["type"] == "value_error":
        return Problem(path, str(detail["ctx"]["error"]), origin(path))
    return Problem(path, f"{_wanted(detail)}, got {detail['input']!r}", origin(path))


def _wanted(detail: dict) -> str:
    return detail["msg"].replace("Input should be", "expected")


def _model_at(model: type[BaseModel], loc: list[str]) -> type[BaseModel] | None:
    """The model that holds the keys below `loc`."""
    return _walk(model, [*loc, ""])[1]


def _walk(model: type[BaseModel], loc: list[str]) -> tuple[list[str], type[BaseModel] | None]:
    """`loc` without the tags that pydantic puts in for a node of several kinds (launcher.slurm.time), and the model that its
    last part belongs to; None below anything that is not a model."""
    kinds, path = [model], []
    for part in loc[:-1]:
        if len(kinds) > 1 and (tagged := [kind for kind in kinds if _tag(kind) == part]):
            kinds = tagged
            continue
        holder = next((kind for kind in kinds if part in kind.model_fields), None)
        path.append(part)
        kinds = _models(holder.model_fields[part].annotation) if holder else []
    if len(kinds) > 1:
        kinds = [kind for kind in kinds if loc[-1] in kind.model_fields] or kinds
    return [*path, loc[-1]], kinds[0] if kinds else None


def _models(annotation) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in typing.get_args(annotation) for found in _models(inner)]


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("name")
    return next(iter(typing.get_args(field.annotation)), None) if field else None
