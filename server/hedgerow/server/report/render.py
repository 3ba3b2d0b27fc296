"""`write_report`: one self-contained HTML page about a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hedgerow.files import write_atomically
from hedgerow.ledger import Ledger
from hedgerow.server.report.computing import (
    kernels_text,
    layer_rows,
    ledger_rows,
    phase_rows,
    unconverted_texts,
)
from hedgerow.server.report.mask_pictures import PITCH, STRIP, exchange_rows, mask_pictures, mask_text, selected
from hedgerow.server.report.page import page_style, page_template
from hedgerow.server.report.parts import part_rows, refused_text
from hedgerow.server.report.plots import pictures
from hedgerow.server.report.settings_text import settings_text
from hedgerow.server.report.summary import Sizes, tiles
from hedgerow.server.report.tables import COLUMNS, FAILURES_SHOWN, failure_rows, round_rows
from hedgerow.telemetry.records import RoundRecord

__all__ = ["HOW_TO_LOAD", "write_report"]

HOW_TO_LOAD = """\
from pathlib import Path

from hedgerow.artifact import load_artifact

weights = load_artifact(Path("model.safetensors"))  # dense tensors by name, 0 where pruned
network.load_state_dict(weights)  # network: the model that the settings name
network.eval()
"""


def write_report(
    path: Path,
    *,
    title: str,
    settings: Mapping[str, object],
    records: Sequence[RoundRecord],
    facts: Mapping[str, str],
    sizes: Sizes,
    how_to_load: str = HOW_TO_LOAD,
    ledger: Ledger | None = None,
    paths: Mapping[str, Any] | None = None,
) -> None:
    """Writes the page atomically; the same arguments give the same bytes.

    The page holds no script and refers to nothing outside itself. Every text in it is escaped: names and reasons may
    come from devices that nobody trusts.

    Args:
        path: The HTML file; its folder is made if it is missing.
        title: Heading of the page.
        settings: The whole configuration, nested.
        records: The rounds so far, in order; none at all is fine.
        facts: Short facts by name: model, parameters, size of the model's file, seed, run, versions.
        sizes: What the dense model would weigh.
        how_to_load: Python that loads the exported model.
        ledger: What a client's training was computed to take.
        paths: What computes each layer (the record of a `PathChoice`).

    Raises:
        RunError: the file cannot be written.
    """
    template = page_template(__package__, "report.html.j2")
    failures, chosen = failure_rows(records), selected(records)
    page = template.render(
        style=page_style(),
        title=title,
        facts=facts,
        rounds=len(records),
        last_round=records[-1].round if records else None,
        tiles=tiles(records, sizes),
        pictures=[(picture, Markup(picture.svg)) for picture in pictures(records)],
        selected=chosen,
        selected_svg=Markup(chosen.picture.svg) if chosen else "",
        strip=(PITCH, STRIP),
        mask_pictures=[(picture, Markup(picture.svg)) for picture in mask_pictures(records)],
        mask_text=mask_text(records),
        exchange_rows=exchange_rows(records),
        kernels=kernels_text(records, paths),
        phase_rows=phase_rows(records),
        ledger_rows=ledger_rows(ledger),
        layer_rows=layer_rows(ledger, paths),
        unconverted=unconverted_texts(paths),
        part_rows=part_rows(records),
        refused=refused_text(records),
        failures=failures[-FAILURES_SHOWN:],
        failures_in_all=len(failures),
        columns=COLUMNS,
        rows=round_rows(records),
        settings=settings_text(settings),
        how_to_load=how_to_load.strip(),
    )
    # A lone surrogate (a file name, a device's text) has no UTF-8 form; it must not cost the user the page.
    write_atomically(path, page.encode("utf-8", errors="replace"))
