"""What a comparison came to, as tables for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields

from hedgerow.server.comparing.figures import AXES, INSTEAD, LineFigures, RunFigures, run_figures
from hedgerow.server.comparing.folder import Found
from hedgerow.server.comparing.plan import Plan, differing, flat_settings

__all__ = ["comparison_json", "lines_csv", "runs_csv"]

_COSTS = (*AXES[1:], *INSTEAD.values())
_FIGURES = tuple(field.name for field in fields(RunFigures))


def lines_csv(lines: Iterable[LineFigures]) -> str:
    """A row a line: of each figure the mean over the seeds and the standard deviation (`…_sd`), which is empty where
    fewer than two seeds are done. Fractions, bytes and seconds are plain numbers.
    """
    heading = ["line", "seeds", *(name for figure in _FIGURES for name in (figure, f"{figure}_sd"))]
    heading += ["points_over_first", "points_over_first_sd", *(f"fewer_{cost}" for cost in _COSTS), "beaten_by"]
    rows: list[list[object]] = []
    for line in lines:
        row: list[object] = [line.name, len(line.runs)]
        for spread in (*(line.over.get(figure) for figure in _FIGURES), line.points):
            row += [None, None] if spread is None else [spread.mean, spread.deviation]
        rows.append([*row, *(line.fewer.get(cost) for cost in _COSTS), " ".join(line.beaten_by)])
    return _csv(heading, rows)


def runs_csv(found: Iterable[Found], *, places: dict[str, str]) -> str:
    """A row a run, those that are not done with empty figures.

    Args:
        found: all runs.
        places: the folder of each, by its name.
    """
    rows: list[list[object]] = []
    for one in found:
        figures = asdict(run_figures(one.records)) if one.stage == "done" else {}
        run = one.run
        own: list[object] = [run.line, run.experiment.recipe, run.seed, one.stage]
        rows.append([*own, *map(figures.get, _FIGURES), places[run.name], one.reason])
    return _csv(["line", "recipe", "seed", "stage", *_FIGURES, "folder", "reason"], rows)


def comparison_json(plan: Plan, found: Sequence[Found], lines: Sequence[LineFigures], *, places: dict[str, str]) -> str:
    """All figures as JSON: the settings that differ among lines, each line's means and spreads, and each run."""
    firsts = [plan.of(line.name)[0] for line in plan.lines]
    keys = [key for key in differing(firsts) if key != "recipe"]
    content = {
        "version": 1,
        "title": plan.title,
        "seeds": plan.seeds,
        "splits_differ_in": plan.different,
        "lines": [
            {
                "name": line.name,
                "recipe": run.experiment.recipe,
                "settings": {key: flat_settings(run.experiment)[key] for key in keys},
                "seeds_done": sorted(line.runs),
                "figures": {name: asdict(spread) for name, spread in line.over.items()},
                "points_over_first": None if line.points is None else asdict(line.points),
                "fewer_than_first": dict(line.fewer),
                "beaten_by": line.beaten_by,
            }
            for line, run in zip(lines, firsts, strict=True)
        ],
        "runs": [
            {
                "line": one.run.line,
                "seed": one.run.seed,
                "digest": one.run.experiment.digest(),
                "folder": places[one.run.name],
                "stage": one.stage,
                "reason": one.reason or None,
                "figures": asdict(run_figures(one.records)) if one.stage == "done" else None,
                "accuracies": [(r.round, r.accuracy) for r in one.records if r.accuracy is not None],
            }
            for one in found
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    return text.getvalue()
