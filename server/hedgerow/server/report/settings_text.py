"""A nested configuration as text that reads like TOML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum

__all__ = ["settings_text"]


def settings_text(settings: Mapping[str, object]) -> str:
    """The configuration as TOML-like text; TOML has no null, so what is not set is a comment.

    >>> print(settings_text({"seed": 1, "fleet": {"clients": 4, "deadline": None}}))
    seed = 1
    <BLANKLINE>
    [fleet]
    clients = 4
    # deadline is not set
    """
    return "\n".join(_table("", settings)).strip("\n")


def _table(name: str, table: Mapping[str, object]) -> list[str]:
    # TOML wants plain keys before sub-tables: after a [header] a key would belong to that table.
    lines = [_line(key, value) for key, value in table.items() if not isinstance(value, Mapping)]
    if name and (lines or not table):
        lines = ["", f"[{name}]", *lines]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += _table(f"{name}.{_key(key)}" if name else _key(key), value)
    return lines


def _line(key: str, value: object) -> str:
    return f"# {_key(key)} is not set" if value is None else f"{_key(key)} = {_value(value)}"


def _key(key: object) -> str:
    text = str(key)
    bare = text.replace("-", "").replace("_", "")
    return text if bare.isascii() and bare.isalnum() else json.dumps(text, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, Enum):
        return _value(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return '"not finite"'
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        items = value if isinstance(value, Sequence) else sorted(value, key=str)
        return "[" + ", ".join(_value(item) for item in items) + "]"
    return json.dumps("not set" if value is None else str(value), ensure_ascii=False)
