"""What a comparison came to, as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hedgerow.config import Experiment
from hedgerow.server.comparing.figures import LineFigures, run_figures
from hedgerow.server.comparing.folder import Found
from hedgerow.server.comparing.looks import swatch
from hedgerow.server.comparing.pictures import pictures
from hedgerow.server.comparing.plan import Plan, differing, flat_settings
from hedgerow.server.comparing.rows import (
    COSTS,
    accuracy_text,
    beaten_text,
    cost_text,
    count_of_seeds,
    fewer_text,
    points_text,
)
from hedgerow.server.report.page import page_style, page_template
from hedgerow.server.report.settings_text import settings_text
from hedgerow.units import MISSING, bytes_text, count_text, percent_text, seconds_text

__all__ = ["comparison_page"]


def comparison_page(
    plan: Plan, found: Sequence[Found], lines: Sequence[LineFigures], *, places: dict[str, str], facts: dict[str, str]
) -> str:
    """The page; the same arguments give the same text.

    It holds no script, and refers to nothing outside itself but the runs' own reports beside it. Every text in it is
    escaped.

    Args:
        plan: what is compared.
        found: how its runs stand.
        lines: what they come to.
        places: the folder of each run below the page's own, by the run's name.
        facts: short facts by name, such as versions.
    """
    firsts = [plan.of(line.name)[0] for line in plan.lines]
    different = [key for key in differing(firsts) if key != "recipe"]
    flat = [flat_settings(run.experiment) for run in firsts]
    shared = {key: value for key, value in flat[0].items() if key not in (*different, "seed", "recipe")}
    recipes = [run.experiment.recipe for run in firsts]
    return page_template(__package__, "comparison.html.j2").render(
        style=page_style(),
        title=plan.title,
        facts=_facts(plan) | facts,
        counts={stage: sum(one.stage == stage for one in found) for stage in ("done", "begun", "waiting", "failed")},
        runs_in_all=len(found),
        lines_in_all=len(lines),
        seeds=plan.seeds,
        different=plan.different,
        tiles=_tiles(lines),
        legend=[(line.name, Markup(swatch(place))) for place, line in enumerate(lines)],
        pictures=pictures(lines, found),
        first=lines[0].name,
        rows=[_row(line, plan, swatch(place)) for place, line in enumerate(lines)],
        setting_lines=list(zip([line.name for line in lines], recipes, strict=True)),
        setting_rows=[(key, [_value(settings[key]) for settings in flat]) for key in different],
        run_rows=[_run_row(one, places[one.run.name]) for one in found],
        failed=[one for one in found if one.stage == "failed"],
        settings=settings_text(_tree(shared)),
    )


def _facts(plan: Plan) -> dict[str, str]:
    def each(text: Callable[[Experiment], str]) -> str:
        values = list(dict.fromkeys(text(run.experiment) for run in plan.runs))
        return ", ".join(values[:3]) + (" …" if len(values) > 3 else "")

    seeds = plan.seeds
    return {
        "Data": each(lambda e: e.data.name),
        "Partition": each(lambda e: f"{e.data.partition}{_alpha(e)}"),
        "Model": each(lambda e: e.model.name),
        "Clients": each(lambda e: count_text(e.fleet.clients)),
        "Asked in a round": each(lambda e: count_text(e.fleet.cohort)),
        "Rounds": each(lambda e: count_text(e.rounds)),
        "Seeds": str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}",
    }


def _alpha(experiment: Experiment) -> str:
    return f", α = {experiment.data.alpha:g}" if experiment.data.partition == "dirichlet" else ""


def _tiles(lines: Sequence[LineFigures]) -> list[tuple[str, str, str]]:
    accurate = [(line.name, mean) for line in lines if (mean := line.mean("accuracy")) is not None]
    tiles = []
    if accurate:
        name, mean = max(accurate, key=lambda pair: pair[1])
        tiles.append(("Most accurate", percent_text(mean), name))
    for label, cost in zip(("Fewest bytes", "Least memory", "Least device time"), COSTS, strict=True):
        # Where no line has the figure, what stands for it.
        figures = (cost.figure, *([] if cost.instead is None else [cost.instead.figure]))
        known = [[(mean, line) for line in lines if (mean := line.mean(figure)) is not None] for figure in figures]
        if costs := next(filter(None, known), None):
            _, line = min(costs, key=lambda pair: pair[0])
            tiles.append((label, cost_text(line, cost), line.name))
    return tiles


def _row(line: LineFigures, plan: Plan, mark: str) -> dict[str, object]:
    return {
        "name": line.name,
        "mark": Markup(mark),
        "best": bool(line.runs) and not line.beaten_by,
        "seeds": count_of_seeds(line, plan.seeds),
        "accuracy": accuracy_text(line.over.get("accuracy")),
        "points": points_text(line.points),
        "best_accuracy": percent_text(line.mean("best_accuracy"), decimals=2),
        "costs": [(cost_text(line, cost), fewer_text(line, cost)) for cost in COSTS],
        "kept": count_text(line.mean("kept")),
        "beaten_by": beaten_text(line),
    }


def _run_row(one: Found, place: str) -> dict[str, object]:
    done = one.records[-1].round if one.records else 0
    row = {"line": one.run.line, "seed": one.run.seed, "place": place}
    if one.stage != "done":
        stage = "failed" if one.stage == "failed" else f"{done} of {one.run.experiment.rounds} rounds"
        return {**row, "stage": stage, "report": "", "cells": [MISSING] * 6}
    figures = run_figures(one.records)
    cells = [
        percent_text(figures.accuracy, decimals=2),
        bytes_text(figures.bytes_up),
        bytes_text(figures.bytes_down),
        cost_text(figures, COSTS[1]),
        seconds_text(figures.client_seconds),
        seconds_text(figures.seconds),
    ]
    return {**row, "stage": "done", "report": f"{place}/report.html", "cells": cells}


def _value(value: object) -> str:
    return "not set" if value is None else settings_text({"x": value}).removeprefix("x = ")


def _tree(flat: Mapping[str, object]) -> dict[str, object]:
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        inside = tree
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[last] = value
    return tree
