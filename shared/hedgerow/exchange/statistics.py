"""What clients say of networks that they only looked at: moments of what goes into the batch norms, and losses.

Nothing of it is noised or clipped: the settings of `privacy` are about what training changed, and do not cover it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hedgerow.codec import Floats, Section, Sections, counts_section, expected, read_counts
from hedgerow.codec.symbols import pack_floats, unpack_floats
from hedgerow.errors import PayloadError
from hedgerow.recalibration import Moments
from hedgerow.v1 import payload_pb2 as pb

__all__ = [
    "LARGEST_LOSS",
    "LARGEST_STATISTIC",
    "losses_section",
    "read_losses",
    "read_samples",
    "read_statistics",
    "samples_section",
    "statistics_section",
]

LARGEST_STATISTIC = 2.0**40
"""Of a mean's absolute value, and of a variance. Squares of it, summed over a fleet's samples, fit into float64."""
LARGEST_LOSS = 2.0**20
"""In nats. What is said of a network whose loss is larger, or not a number."""
_MOST_SAMPLES = 2**24
"""As in `Measures`: float32 holds each number of them exactly."""


def statistics_section(moments: Sequence[Moments]) -> Section:
    """For one network after the other the means of all channels, then their variances, in float32.

    What is not finite or out of bounds is said as the nearest bound, and NaN as a mean of 0 and the largest variance:
    one network that overflows must not lose what there is to say of the others.

    Args:
        moments: of each network; its number of samples is in `samples_section`.
    """
    bound = LARGEST_STATISTIC
    parts = [np.zeros(0)]
    for one in moments:
        parts.append(np.nan_to_num(one.mean, nan=0.0, posinf=bound, neginf=-bound).clip(-bound, bound))
        parts.append(np.nan_to_num(one.variance, nan=bound, posinf=bound, neginf=0.0).clip(0.0, bound))
    return _float_section(pb.KIND_STATISTICS, np.concatenate(parts).astype(np.float32))


def read_statistics(sections: Sections, *, networks: int, channels: int) -> list[Moments]:
    """Inverse of `statistics_section` and `samples_section`.

    Args:
        sections: of a reply.
        networks: how many it has to speak of.
        channels: how many channels the norms of each have together.

    Raises:
        PayloadError: a section is missing, of another length or codec, or a value is out of bounds.
    """
    count = read_samples(sections)
    values = _floats(sections, pb.KIND_STATISTICS, 2 * networks * channels).astype(np.float64)
    if (np.abs(values) > LARGEST_STATISTIC).any():
        raise PayloadError("a statistic is out of bounds", kind="bounds")
    pairs = values.reshape(networks, 2, channels)
    if (pairs[:, 1] < 0).any():
        raise PayloadError("a variance is negative", kind="bounds")
    return [Moments(mean, variance, count) for mean, variance in pairs]


def losses_section(losses: Sequence[float]) -> Section:
    """A mean loss in nats for each network, in float32; what is above `LARGEST_LOSS`, or NaN, as that.

    >>> losses_section([0.5, float("nan")]).data.hex()
    '0000003f00008049'
    """
    values = np.nan_to_num(np.array(losses, dtype=np.float64), nan=LARGEST_LOSS, posinf=LARGEST_LOSS)
    return _float_section(pb.KIND_LOSSES, values.clip(0.0, LARGEST_LOSS).astype(np.float32))


def read_losses(sections: Sections, *, networks: int) -> Floats:
    """Inverse of `losses_section`: (networks,) float32.

    Raises:
        PayloadError: the section is missing, of another length or codec, or a value is out of bounds.
    """
    losses = _floats(sections, pb.KIND_LOSSES, networks)
    if not ((losses >= 0) & (losses <= LARGEST_LOSS)).all():
        raise PayloadError(f"a loss is not from 0 to {LARGEST_LOSS:g}", kind="metrics")
    return losses


def samples_section(count: int) -> Section:
    """How many samples a client looked at, which is its weight in every mean."""
    assert 1 <= count <= _MOST_SAMPLES
    return counts_section(np.array([count], dtype=np.float32))


def read_samples(sections: Sections) -> int:
    """Inverse of `samples_section`.

    Raises:
        PayloadError: the section is missing, or it is no number of samples.
    """
    count = float(read_counts(sections, 1)[0])
    if not 1 <= count <= _MOST_SAMPLES or count % 1:
        raise PayloadError(f"{count:g} samples were looked at; it has to be 1 to {_MOST_SAMPLES}", kind="metrics")
    return int(count)


def _float_section(kind: pb.Kind, values: Floats) -> Section:
    data = pack_floats(values)
    return Section(kind, pb.CODEC_FLOAT32, values.size, 0, data, float(len(data)))


def _floats(sections: Sections, kind: pb.Kind, count: int) -> Floats:
    return unpack_floats(expected(sections, kind, count, codecs=(pb.CODEC_FLOAT32,)).data, count)
