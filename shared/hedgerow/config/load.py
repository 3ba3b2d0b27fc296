"""From files and `key=value` texts to an `Experiment`, with errors that say where, what and what is allowed.

The layers, each over the one before: defaults of the schema, the recipe (`recipes/*.toml` in this package), the
experiment's TOML file, and overrides from the command line.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from hedgerow.config.experiment import Experiment
from hedgerow.errors import ConfigError

__all__ = ["DEFAULT_RECIPE", "Recipe", "load_experiment", "parse_override", "recipe_named", "recipe_names"]

DEFAULT_RECIPE = "hedgerow"

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named preset: what it is, and the settings that it changes."""

    name: str
    description: str
    settings: Tree


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes in this package, in alphabetical order.

    >>> "hidenseek" in recipe_names()
    True
    """
    folder = resources.files("hedgerow.config") / "recipes"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def recipe_named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: there is none.
    """
    names = recipe_names()
    if name not in names:
        raise ConfigError(f"recipe: unknown recipe {name!r}{_closest(name, names)}; there are {', '.join(names)}")
    text = (resources.files("hedgerow.config") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    settings = tomllib.loads(text)
    return Recipe(name=name, description=settings.pop("description"), settings=settings)


def load_experiment(
    path: Path | None = None, *, recipe: str | None = None, overrides: Iterable[tuple[str, object]] = ()
) -> Experiment:
    """Builds the experiment of a TOML file (or of none), a recipe's name and overrides of single keys.

    Args:
        path: TOML file; its key `recipe` names the preset below it.
        recipe: preset to use instead of the file's.
        overrides: (dotted key, value) pairs, as `parse_override` makes them; the last one wins.

    Raises:
        ConfigError: names the key, what was found and what is allowed.
    """
    tree = _read_toml(path) if path is not None else {}
    overrides = list(overrides)
    name = dict(overrides).get("recipe", tree.get("recipe", DEFAULT_RECIPE) if recipe is None else recipe)
    if not isinstance(name, str):
        raise ConfigError(f"recipe: expected the name of a recipe in quotes, found {name!r}")
    merged = _merged(recipe_named(name).settings, tree)
    for key, value in overrides:
        merged = _merged(merged, _nested(key, value))
    merged["recipe"] = name
    try:
        return Experiment.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(_sentence(error, source=path)) from None


def parse_override(text: str) -> tuple[str, object]:
    """Reads `key=value`; the value is TOML, and a bare word is a string.

    >>> parse_override("pruning.density=0.05")
    ('pruning.density', 0.05)
    >>> parse_override("model.name=conv4")
    ('model.name', 'conv4')

    Raises:
        ConfigError: there is no `=`.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not equals or not key:
        raise ConfigError(f"--set {text}: expected key=value, for example --set pruning.density=0.05")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _read_toml(path: Path) -> Tree:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such experiment file; leave it out to run a recipe as it is") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _merged(below: Tree, above: Mapping[str, Any]) -> Tree:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _nested(key: str, value: object) -> Tree:
    head, dot, rest = key.partition(".")
    return {head: _nested(rest, value)} if dot else {head: value}


def _sentence(error: ValidationError, *, source: Path | None) -> str:
    details = error.errors()
    lines = [_one(detail) for detail in details]
    where = f"{source}: " if source is not None else ""
    return where + "; ".join(lines)


def _one(detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    key, found = ".".join(location), detail["input"]
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            allowed = _keys_beside(location)
            return f"{key}: unknown key{_closest(location[-1], allowed)}; allowed here are {', '.join(allowed)}"
        case "literal_error":
            allowed = _choices(location)
            close = _closest(str(found), allowed)
            return f"{key}: found {found!r}{close}; allowed are {', '.join(allowed) or context['expected']}"
        case "model_type":
            return f"{key}: found {found!r}; it is a section with the keys {', '.join(_keys_beside([*location, '']))}"
        case "value_error":
            return str(context["error"])
        case _:
            return f"{key}: found {found!r}; {detail['msg'].replace('Input should', 'it should')}"


def _closest(found: str, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(found, list(allowed), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _keys_beside(location: list[str]) -> list[str]:
    settings = _settings_at(location[:-1])
    return list(settings.model_fields) if settings is not None else []


def _choices(location: list[str]) -> list[str]:
    settings = _settings_at(location[:-1])
    if settings is None or location[-1] not in settings.model_fields:
        return []
    return [str(choice) for choice in _literals(settings.model_fields[location[-1]].annotation)]


def _settings_at(location: list[str]) -> type[BaseModel] | None:
    settings: type[BaseModel] = Experiment
    for part in location:
        field = settings.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        settings = field.annotation
    return settings


def _literals(annotation: object) -> list[object]:
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return [choice for part in get_args(annotation) for choice in _literals(part)]
    return []
