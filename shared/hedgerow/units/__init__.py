"""Numbers as people read them. Whatever is missing or not finite becomes `MISSING`, so no NaN reaches a page."""

from __future__ import annotations

import math
import re
import unicodedata

from hedgerow.errors import ConfigError

__all__ = [
    "MISSING",
    "bytes_text",
    "clean_text",
    "count_text",
    "factor_text",
    "finite",
    "number_text",
    "parse_bytes",
    "percent_text",
    "seconds_text",
    "size_text",
    "tick_text",
]

MISSING = "–"
_SIZE = re.compile(r"(\d{1,16}(?:\.\d{1,16})?)\s*([kmgt]?)(i?)b?", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_MAX_BYTES = 1 << 50


def finite(value: float | None) -> float | None:
    """The value, or None where it is missing, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def bytes_text(value: float | None) -> str:
    """Bytes in decimal units.

    >>> bytes_text(999), bytes_text(1_310_000), bytes_text(312_400), bytes_text(999_960)
    ('999 B', '1.3 MB', '312 kB', '1.0 MB')
    """
    size = finite(value)
    if size is None:
        return MISSING
    if abs(size) < 999.5:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if abs(size) < 99.95:
            return f"{size:.1f} {unit}"
        if abs(size) < 999.5:
            return f"{size:.0f} {unit}"
    return f"{size / 1000:,.1f} PB"


def parse_bytes(text: str) -> int:
    """Reads a number of bytes.

    Raises:
        ConfigError: it is none, or not between 1 MB and 1 PB.

    >>> parse_bytes("512MB"), parse_bytes("1.5 GiB"), parse_bytes("2000000")
    (512000000, 1610612736, 2000000)
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"memory: found {text!r}; write it as 512MB, 1.5GB or 1GiB")
    number, unit, binary = match.groups()
    size = int(float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()])
    if not 1_000_000 <= size <= _MAX_BYTES:
        raise ConfigError(f"memory: found {text!r}; give at least 1MB, and at most 1000TB")
    return size


def count_text(value: float | None) -> str:
    """A count: exact below a million, rounded above.

    >>> count_text(61_706), count_text(11_173_962)
    ('61,706', '11.2 million')
    """
    count = finite(value)
    if count is None:
        return MISSING
    if abs(count) < 999_999.5:
        return f"{count:,.0f}"
    if abs(count) < 999_950_000:
        return f"{count / 1e6:,.1f} million"
    return f"{count / 1e9:,.1f} billion"


def percent_text(fraction: float | None, *, decimals: int = 1) -> str:
    """A fraction as per cent: some decimals, and two significant digits below one per cent.

    >>> percent_text(0.9312), percent_text(0.0051), percent_text(1.0), percent_text(0.0)
    ('93.1%', '0.51%', '100%', '0%')
    """
    share = finite(fraction)
    if share is None:
        return MISSING
    percent = 100 * share
    if percent in (0.0, 100.0):
        return f"{percent:.0f}%"
    if abs(percent) >= 0.995:
        return f"{percent:.{decimals}f}%"
    digits = min(12, 1 - math.floor(math.log10(abs(percent))))
    return f"{percent:.{digits}f}%"


def factor_text(value: float | None) -> str:
    """How many times.

    >>> factor_text(4.13), factor_text(41.3), factor_text(1204.0)
    ('4.1×', '41×', '1,204×')
    """
    factor = finite(value)
    if factor is None:
        return MISSING
    return f"{factor:.1f}×" if factor < 9.95 else f"{factor:,.0f}×"


def seconds_text(value: float | None) -> str:
    """A span of time.

    >>> seconds_text(1.234), seconds_text(45.21), seconds_text(725), seconds_text(11_040)
    ('1.23 s', '45.2 s', '12 min 5 s', '3 h 4 min')
    """
    seconds = finite(value)
    if seconds is None:
        return MISSING
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 119.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes} min"


def number_text(value: float | None, decimals: int = 4) -> str:
    """A plain number with a fixed number of decimals."""
    number = finite(value)
    return MISSING if number is None else f"{number:,.{decimals}f}"


def tick_text(text: str) -> str:
    """A number for an axis, where a decimal that is zero only takes room.

    >>> tick_text("80.0%"), tick_text("3.0 MB"), tick_text("2.5%")
    ('80%', '3 MB', '2.5%')
    """
    return re.sub(r"\.0+(?=%| |$)", "", text)


def size_text(size: float) -> str:
    """Bytes in a sentence, where a decimal that is zero only takes room.

    >>> size_text(96_000_000), size_text(8_240_000)
    ('96 MB', '8.2 MB')
    """
    return tick_text(bytes_text(size))


def clean_text(text: str, limit: int = 300) -> str:
    """Text from another machine, made fit to be shown (HTML is escaped later, by the template).

    Control characters and the invisible ones that reorder text become spaces; what is longer than `limit` is cut.

    >>> clean_text("disk\\x00full\\u202e!")
    'disk full !'
    """
    # A reason may be a megabyte long, so it is cut before every character of it is looked at.
    cut = text[: 4 * limit]
    shown = "".join(" " if unicodedata.category(c).startswith(("C", "Z")) else c for c in cut)
    words = " ".join(shown.split())
    return words if len(words) <= limit and len(cut) == len(text) else words[: limit - 1] + "…"
