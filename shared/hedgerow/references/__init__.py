"""The user's own code, named on the command line or in a recipe as ``package.module:function``."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from hedgerow.errors import ConfigError, HedgerowError

__all__ = ["current_directory_importable", "is_reference", "resolve_reference", "unknown_name"]

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """Put the current directory first in ``sys.path`` while the block runs, as ``python -m`` does.

    Code that a user keeps beside an experiment is found this way, and no later import of ours can be shadowed by it.
    """
    directory = os.getcwd()
    importlib.invalidate_caches()  # for a file that was written since this process began
    if directory in sys.path:
        yield
        return
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's code may have removed it already
            sys.path.remove(directory)


def is_reference(text: str) -> bool:
    """Whether `text` is meant as ``package.module:function`` and not as one of our own names.

    >>> is_reference("my_project.nets:tiny"), is_reference("digits")
    (True, False)
    """
    return ":" in text


def resolve_reference(text: str) -> Callable[..., object]:
    """Import ``package.module:function`` and return the function (any callable; dots after the colon are followed).

    The current directory is importable while the module is loaded.

    Raises:
        ConfigError: the text has another form, the module is missing or fails while it is imported, it has no such
            attribute, or the attribute cannot be called.

    >>> resolve_reference("math:sqrt")(9.0)
    3.0
    """
    if _REFERENCE.fullmatch(text) is None:
        raise ConfigError(f"{text!r} is not a reference: write it as package.module:function")
    module_name, _, path = text.partition(":")
    try:
        with current_directory_importable():
            found: object = importlib.import_module(module_name)
    except HedgerowError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{text!r}: there is no module {error.name!r} in the current directory or among the installed "
                f"packages; check the spelling or start hedgerow in the folder that holds it"
            ) from error
        raise ConfigError(
            f"{text!r}: importing {module_name} failed because it needs {error.name!r}; install that"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"{text!r}: importing {module_name} failed with {type(error).__name__}: {error}; correct that module"
        ) from error
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            public = [name for name in dir(found) if not name.startswith("_")]
            raise ConfigError(
                f"{text!r}: {module_name} has no {path!r}{_hint(attribute, public)}; name one of its functions"
            )
        found = getattr(found, attribute)
    if not callable(found):
        raise ConfigError(f"{text!r} is a {type(found).__name__}, not a function; name a function of {module_name}")
    return found


def unknown_name(kind: str, *, found: str, allowed: Sequence[str]) -> str:
    """The sentence for a name that we do not have: what was found, the closest match, and all that is allowed.

    >>> unknown_name("data set", found="digit", allowed=("digits", "idx"))
    "unknown data set 'digit' (did you mean 'digits'?): use one of digits, idx, or package.module:function"
    """
    names = ", ".join(allowed)
    return f"unknown {kind} {found!r}{_hint(found, allowed)}: use one of {names}, or package.module:function"


def _hint(found: str, allowed: Sequence[str]) -> str:
    match = difflib.get_close_matches(found, allowed, n=1)
    return f" (did you mean {match[0]!r}?)" if match else ""
