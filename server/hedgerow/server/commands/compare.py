"""`hedgerow compare`: recipes beside each other, on the same splits and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hedgerow.server.commands.options import Settings

if TYPE_CHECKING:
    from hedgerow.server.comparing.plan import Plan

__all__ = ["compare"]


def compare(
    experiment: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT.toml", help="Settings of all lines, over those of their recipes.")
    ],
    recipes: Annotated[
        str | None, typer.Option(help="Recipes with commas between them: --recipes hidenseek,fedavg.")
    ] = None,
    lines: Annotated[
        Path | None,
        typer.Option(metavar="LINES.toml", help="More lines: a table each, with recipe and settings of its own."),
    ] = None,
    line: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RECIPE KEY=VALUE …", help="One more line with settings of its own; repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each line, from the experiment's own on.")] = 3,
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="Folder of all comparisons.")] = Path("comparisons"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once; as many as cores when absent.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of each run.")] = 1,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Let lines differ in data, fleet or rounds.")
    ] = False,
) -> None:
    """Trains several recipes on the same splits and seeds, and shows where each stands.

    Each line is a recipe, with the experiment's settings over it; the others are compared with the first. A table and
    plots are printed, and written into the comparison's folder as a page, CSV and JSON. The same command again goes on
    where it stopped, and runs only what is new.
    """
    from hedgerow.config import parse_override
    from hedgerow.server.comparing.lines import chosen_lines
    from hedgerow.server.comparing.plan import planned

    plan = planned(
        experiment,
        title=experiment.stem,
        lines=chosen_lines(recipes=recipes, file=lines, texts=line or []),
        seeds=seeds,
        settings=[parse_override(text) for text in settings or []],
        allow_different=allow_different,
    )
    _run(plan, out / plan.title, jobs=jobs, workers=workers)


def _run(plan: Plan, path: Path, *, jobs: int | None, workers: int) -> None:
    # matplotlib and torch take seconds to import; `--help` and a mistaken key must not wait for them.
    from rich.console import Console

    from hedgerow.errors import RunError
    from hedgerow.machine import cores
    from hedgerow.server.comparing.comparison import compare as run
    from hedgerow.server.comparing.figures import line_figures
    from hedgerow.server.comparing.render_text import print_comparison
    from hedgerow.server.comparing.telling import Teller
    from hedgerow.server.comparing.writing import write_comparison

    console = Console()
    found = run(
        plan,
        path,
        jobs=jobs or cores(),
        workers=workers,
        teller=Teller(console),
        write=lambda found: write_comparison(path, plan, found),
    )
    typer.echo()
    print_comparison(console, line_figures(plan, found), seeds=plan.seeds)
    typer.echo(f"\npage    {path / 'comparison.html'}\ntables  {path / 'comparison.csv'}, {path / 'runs.csv'}")
    failed = [one for one in found if one.stage != "done"]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(found)} runs failed, the first ({failed[0].run.name}) because of this: "
            f"{failed[0].reason}; the same command tries them again"
        )
