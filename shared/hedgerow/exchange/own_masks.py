"""Masks that devices make themselves: how a reply says one, and what it has to be.

Both ends know the mask that was sent, so a reply says what changed; where coding is plain, the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hedgerow.codec import Growth, Section, Sections, binary_entropy_bytes
from hedgerow.errors import PayloadError
from hedgerow.exchange.growth import asked_counts
from hedgerow.exchange.version import Exchange
from hedgerow.pruning import Mask, Moves

__all__ = ["own_mask_entropy", "own_mask_section", "read_own_mask"]


def own_mask_section(own: Mask, *, sent: Mask, exchange: Exchange) -> Section:
    """What a device that was sent one mask says of the one it has made of it."""
    return exchange.encode_mask(own, base=None if exchange.plain else sent)


def read_own_mask(sections: Sections, *, sent: Mask, growth: Sequence[Growth], exchange: Exchange) -> Mask:
    """Inverse of `own_mask_section`.

    Raises:
        PayloadError: the section is missing or damaged; or in a tensor more weights were exchanged than `growth`
            allows, or not as many have come as went.
    """
    own = exchange.decode_mask(sections, base=None if exchange.plain else sent)
    allowed = asked_counts(growth, mask=sent)
    for name, before in sent.items():
        after = own[name]
        came, went = int(torch.count_nonzero(after & ~before)), int(torch.count_nonzero(before & ~after))
        if came != went or came > allowed.get(name, 0):
            raise PayloadError(
                f"{came} weights of {name!r} came and {went} went; as many were to come as go, and at most "
                f"{allowed.get(name, 0)}",
                kind="bounds",
            )
    return own


def own_mask_entropy(own: Mask, *, sent: Mask, exchange: Exchange) -> float:
    """Shannon's bound of what `own_mask_section` says, in bytes."""
    if exchange.plain:
        return binary_entropy_bytes(own.kept, own.size)
    grown = Moves.between(sent, own).grown
    return binary_entropy_bytes(grown, sent.kept) + binary_entropy_bytes(grown, sent.size - sent.kept)
