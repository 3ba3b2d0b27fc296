"""What is compared: a line is a recipe, and perhaps some settings of its own over it."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hedgerow.config import parse_override
from hedgerow.errors import ConfigError

__all__ = ["Line", "chosen_lines", "parse_line", "read_lines"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table.

    Attributes:
        name: up to 40 letters, digits, dots, dashes and underscores; its runs lie in a folder of this name.
        recipe: below the experiment's file; the file's own when None.
        settings: (dotted key, value) pairs over the experiment's file; a value may be a whole section.

    Raises:
        ConfigError: the name is none, or the settings decide what the comparison has to.
    """

    name: str
    recipe: str | None = None
    settings: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"line {self.name!r}: a folder gets this name, so give up to 40 letters, digits, dots, dashes and "
                "underscores, of which the first is a letter or a digit"
            )
        keys = {key for key, _ in self.settings}
        if "recipe" in keys:
            raise ConfigError(f"line {self.name}: recipe is named twice; give it once")
        if "seed" in keys:
            raise ConfigError(
                f"line {self.name}: seed is set, but all lines run with the same seeds; set it in the experiment's "
                "file, where it is the first of them"
            )


def parse_line(text: str) -> Line:
    """Reads `NAME=RECIPE KEY=VALUE KEY=VALUE`; values are those of `--set`.

    >>> parse_line("sparser=fedtiny pruning.density=0.01")
    Line(name='sparser', recipe='fedtiny', settings=(('pruning.density', 0.01),))

    Raises:
        ConfigError: it is not of that form.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--line {text}: {str(error).lower()}; close what is quoted") from None
    name, equals, recipe = (words[0] if words else "").partition("=")
    if not (equals and recipe) or not all("=" in word for word in words):
        raise ConfigError(
            f"--line {text}: expected NAME=RECIPE and then settings, for example "
            "--line 'sparser=fedtiny pruning.density=0.01'"
        )
    return Line(name=name, recipe=recipe, settings=tuple(map(parse_override, words[1:])))


def read_lines(path: Path) -> list[Line]:
    """The lines of a TOML file: a table each, with the name of the line, `recipe`, and settings as in an experiment's
    file, such as `selection.candidates = 0`.

    Raises:
        ConfigError: it cannot be read, or is not of that form.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file of lines; give one, or name recipes with --recipes") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    lines = []
    for name, table in tree.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {name} is not a table; begin each line of the comparison with [{name}]")
        recipe = table.pop("recipe", None)
        if recipe is not None and not isinstance(recipe, str):
            raise ConfigError(f"{path}: recipe of {name} is {recipe!r}; give the name of a recipe in quotes")
        lines.append(Line(name=name, recipe=recipe, settings=tuple(table.items())))
    return lines


def chosen_lines(*, recipes: str | None, file: Path | None, texts: Iterable[str]) -> Sequence[Line]:
    """All lines that options name, in this order: recipes, those of the file, single ones.

    Args:
        recipes: names of recipes with commas between them.
        file: of `read_lines`.
        texts: of `parse_line`.

    Raises:
        ConfigError: there is none, or two have one name.
    """
    names = [name.strip() for name in (recipes or "").split(",") if name.strip()]
    lines = [Line(name=name, recipe=name) for name in names]
    lines += read_lines(file) if file is not None else []
    lines += map(parse_line, texts)
    if not lines:
        raise ConfigError("nothing to compare; name recipes, for example --recipes hidenseek,fedavg")
    seen: set[str] = set()
    for line in lines:
        if line.name in seen:
            raise ConfigError(f"line {line.name} is there twice; give each line a name of its own")
        seen.add(line.name)
    return lines
