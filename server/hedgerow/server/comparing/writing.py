"""`write_comparison`: all files of a comparison that are not a run's own."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from hedgerow.files import write_atomically
from hedgerow.server.comparing.figures import line_figures
from hedgerow.server.comparing.folder import Found
from hedgerow.server.comparing.plan import Plan
from hedgerow.server.comparing.render_csv import comparison_json, lines_csv, runs_csv
from hedgerow.server.comparing.render_html import comparison_page

__all__ = ["write_comparison"]


def write_comparison(path: Path, plan: Plan, found: Sequence[Found]) -> None:
    """Writes page, tables and figures into the comparison's folder, each atomically.

    Raises:
        RunError: one cannot be written.
    """
    lines = line_figures(plan, found)
    places = {one.run.name: f"runs/{one.run.line}/seed-{one.run.seed}/{one.run.experiment.digest()}" for one in found}
    facts = {
        "Versions": f"hedgerow {version('hedgerow')}, torch {version('torch')}, Python {platform.python_version()}"
    }
    files = {
        "comparison.json": comparison_json(plan, found, lines, places=places),
        "comparison.csv": lines_csv(lines),
        "runs.csv": runs_csv(found, places=places),
        "comparison.html": comparison_page(plan, found, lines, places=places, facts=facts),
    }
    for name, text in files.items():
        write_atomically(path / name, text.encode("utf-8", errors="replace"))
