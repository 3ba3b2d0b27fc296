"""`hedgerow fetch`: gets the model of a finished run."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from hedgerow.errors import ModelError, RunError
from hedgerow.server.control.options import AddressArgument, IdentityOption, InsecureOption
from hedgerow.units import bytes_text

if TYPE_CHECKING:
    from grpc import ChannelCredentials

    from hedgerow.wire.addresses import Address

__all__ = ["fetch"]


def fetch(
    address: AddressArgument,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("model.safetensors"),
    identity: IdentityOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Gets the finished run's model from its coordinator, and checks that it can be read."""
    from hedgerow.server.control.client import credentials_for

    where, credentials = credentials_for(address, identity=identity, insecure=insecure)
    with _written(out) as (file, temporary):
        asyncio.run(_download(file, where, credentials))
        file.flush()
        os.fsync(file.fileno())
        # torch takes seconds to import, and is of no use before there is a file.
        from hedgerow.artifact import load_artifact

        try:
            tensors = load_artifact(temporary)
        except ModelError as error:
            reason = str(error).removeprefix(f"{temporary}: ")
            raise ModelError(f"{address}: what it sent is no usable model ({reason}); {out} is as it was") from None
    typer.echo(f"{out}: {bytes_text(out.stat().st_size)}, {len(tensors)} tensors")


@contextlib.contextmanager
def _written(out: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A file beside `out` that takes its place when nothing went wrong."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        if out.is_dir():
            raise RunError(f"{out} is a folder; name the file to write, such as {out / 'model.safetensors'}")
        try:
            with temporary.open("wb") as file:
                yield file, temporary
            os.replace(temporary, out)
        finally:
            temporary.unlink(missing_ok=True)
    except ConnectionError:
        raise
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error.strerror}); choose another file") from None


async def _download(file: IO[bytes], where: Address, credentials: ChannelCredentials | None) -> None:
    from hedgerow.server.control.client import connected

    async with connected(where, credentials) as client:
        async for piece in client.model():
            file.write(piece)
