"""Tries a device's own data before it joins: `python -m hedgerow.client.joining.examine NAME [PATH]`.

A process of its own, so that the one that keeps the stream stays light. Prints one JSON object: `examples`, the number
of training samples; or `error`, the sentence for the user, and `exit_code`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

from hedgerow.errors import DataError, HedgerowError

__all__ = ["examine", "main"]


async def examine(name: str, *, path: Path | None) -> int:
    """The number of training samples of a data set.

    Raises:
        DataError: they are missing or damaged.
    """
    arguments = [name] if path is None else [name, str(path)]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process
    )
    try:
        out, _ = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    try:
        # The user's own function may print too; ours is the last line.
        found = json.loads(out.splitlines()[-1])
    except (ValueError, IndexError):
        raise DataError(
            f"data set {name!r} cannot be loaded: the process that tried ended with exit code {process.returncode}"
        ) from None
    if "error" in found:
        raise _error(str(found["error"]), code=int(found["exit_code"]))
    return int(found["examples"])


def _error(sentence: str, *, code: int) -> DataError:
    error = DataError(sentence)
    error.exit_code = code
    return error


def main(name: str, path: str | None = None) -> None:
    """Loads the data set and prints what became of it."""
    from hedgerow.data import load_dataset  # not in the process that keeps the stream

    try:
        found: dict[str, object] = {
            "examples": len(load_dataset(name, path=None if path is None else Path(path)).train)
        }
    except HedgerowError as error:
        found = {"error": str(error), "exit_code": error.exit_code}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
