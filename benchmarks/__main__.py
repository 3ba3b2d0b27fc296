"""`scripts/bench NAME [--quick] [--json FILE]`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import kills, recipes
from benchmarks.budget import bench as budget
from benchmarks.compare import bench as compare
from benchmarks.faults import bench as faults
from benchmarks.fleet import bench as fleet
from benchmarks.selection import bench as selection
from benchmarks.sparse import bench as sparse
from benchmarks.wire import bench as wire
from hedgerow.errors import HedgerowError
from hedgerow.files import write_atomically

BENCHMARKS = {
    "recipes": recipes,
    "fleet": fleet,
    "faults": faults,
    "kills": kills,
    "sparse": sparse,
    "wire": wire,
    "selection": selection,
    "budget": budget,
    "compare": compare,
}


def main(
    name: Annotated[str | None, typer.Argument(help="Which benchmark; a list when absent.")] = None,
    quick: Annotated[bool, typer.Option(help="A small version, under a minute.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write figure → number here.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs; finished ones are not run again.")] = Path(
        "benchmarks/out"
    ),
) -> None:
    """Runs a benchmark and prints its table."""
    if name is None:
        for known, module in BENCHMARKS.items():
            typer.echo(f"{known}  {(module.__doc__ or '').splitlines()[0]}")
        return
    if name not in BENCHMARKS:
        raise typer.BadParameter(f"unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    try:
        figures = BENCHMARKS[name].run(quick=quick, out=out)
    except HedgerowError as error:
        typer.echo(f"scripts/bench: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    if json_file is not None:
        write_atomically(json_file, (json.dumps(figures, indent=2) + "\n").encode())
    if figures.get("faults.failed"):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
