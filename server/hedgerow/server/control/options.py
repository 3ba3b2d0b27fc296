"""What all commands for operators are told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = ["AddressArgument", "IdentityOption", "InsecureOption"]

AddressArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="ADDR", help="Where the coordinator listens, as HOST:PORT.", show_default=False)
]
IdentityOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE.pem", help="An operator's identity from `hedgerow enrol FOLDER --operator NAME`."),
]
InsecureOption: TypeAlias = Annotated[
    bool, typer.Option("--insecure", help="Ask another machine without TLS, where nobody else is on the network.")
]
