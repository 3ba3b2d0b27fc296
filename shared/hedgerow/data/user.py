"""Data that the user's own function makes."""

from __future__ import annotations

from hedgerow.data.arrays import from_arrays
from hedgerow.data.dataset import Dataset
from hedgerow.errors import DataError, HedgerowError
from hedgerow.references import current_directory_importable, resolve_reference

__all__ = ["load_reference"]


def load_reference(text: str) -> Dataset:
    """Call ``package.module:function`` without arguments.

    It returns a `Dataset`, or the arrays (train images, train labels, test images, test labels), which are read as
    `hedgerow.data.arrays.from_arrays` says.

    Raises:
        ConfigError: there is no such function.
        DataError: it fails, or returns something else.
    """
    function = resolve_reference(text)
    try:
        with current_directory_importable():
            result = function()
    except HedgerowError:
        raise
    except Exception as error:
        raise DataError(
            f"{text!r}: the function failed with {type(error).__name__}: {error}; it is called without arguments"
        ) from error
    if isinstance(result, Dataset):
        return result
    if isinstance(result, tuple) and len(result) == 4:
        return from_arrays(text, train=(result[0], result[1]), test=(result[2], result[3]))
    raise DataError(
        f"{text!r} returned a {type(result).__name__}; return a Dataset or a tuple of the four arrays train images, "
        f"train labels, test images, test labels"
    )
