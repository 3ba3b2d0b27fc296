"""How a recipe names the masks that devices choose from: ``saliency/rule``, with ``~`` for jittered densities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from hedgerow.errors import ConfigError

__all__ = ["PoolEntry"]

_Saliency: TypeAlias = Literal["synflow", "magnitude", "random", "lamp"]
_Rule: TypeAlias = Literal["global", "uniform", "erk", "igq"]
_SALIENCIES: dict[str, _Saliency] = {name: name for name in get_args(_Saliency)}
_RULES: dict[str, _Rule] = {name: name for name in get_args(_Rule)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolEntry:
    """One way to make a mask.

    Attributes:
        saliency: what scores the weights.
        rule: how many of them each layer keeps.
        jittered: whether chance changes the densities of the layers; never with the rule `global`, which has none.
    """

    saliency: _Saliency
    rule: _Rule
    jittered: bool = False

    @classmethod
    def of(cls, text: str) -> PoolEntry:
        """Reads one entry of `selection.pool`.

        Raises:
            ConfigError: it is of another form, names something unknown, or what it names does not go together.

        >>> PoolEntry.of("random/erk~")
        PoolEntry(saliency='random', rule='erk', jittered=True)
        """
        saliency, slash, rule = text.removesuffix("~").partition("/")
        if not slash:
            raise ConfigError(f"selection.pool: {text!r} is not saliency/rule; write it as 'random/erk', for example")
        for kind, found, known in (("saliency", saliency, list(_SALIENCIES)), ("rule", rule, list(_RULES))):
            if found not in known:
                raise ConfigError(
                    f"selection.pool: {text!r} has the unknown {kind} {found!r}; allowed are {', '.join(known)}"
                )
        if saliency == "synflow" and rule != "global":
            raise ConfigError(
                f"selection.pool: {text!r} cannot be made, as SynFlow decides the density of each layer itself; write "
                "'synflow/global'"
            )
        jittered = text.endswith("~")
        if jittered and rule == "global":
            raise ConfigError(
                f"selection.pool: {text!r} cannot be made, as the rule global sets no layer's density that could be "
                "jittered; leave ~ out, or take the rule uniform, erk or igq"
            )
        return cls(saliency=_SALIENCIES[saliency], rule=_RULES[rule], jittered=jittered)
