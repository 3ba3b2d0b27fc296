"""`hedgerow doctor`: how hedgerow runs on this machine, and why."""

from __future__ import annotations

import json
from typing import Annotated

import typer

__all__ = ["doctor"]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Says which kernels train here and why, and what else there is on this machine."""
    # It imports torch, for which `--help` must not wait.
    from hedgerow.client.surroundings import surroundings

    found = surroundings()
    if as_json:
        typer.echo(json.dumps(found.as_record(), indent=2, ensure_ascii=False))
        return
    for line in found.lines():
        typer.echo(line)
