"""What a finished run hands over: the model's file and the report."""

from __future__ import annotations

import platform
from importlib.metadata import version

from hedgerow.artifact import artifact_bytes
from hedgerow.config import Experiment
from hedgerow.files import write_atomically
from hedgerow.ledger import Ledger, ledger, plan_of
from hedgerow.server.bench import Bench, description
from hedgerow.server.guarantee import guarantee
from hedgerow.server.paths import read_paths
from hedgerow.server.report import Sizes, write_report
from hedgerow.server.run_folder import RunFolder
from hedgerow.server.state import RoundState
from hedgerow.units import bytes_text, count_text

__all__ = ["deliver"]

_HOW_TO_LOAD = """\
from pathlib import Path

from hedgerow.artifact import load_artifact
from hedgerow.models import build_model

model = build_model({name!r}, input_shape={shape}, classes={classes}, norm={norm!r}, seed=0)
model.load_state_dict(load_artifact(Path("model.safetensors")))
model.eval()
"""


def deliver(experiment: Experiment, *, bench: Bench, state: RoundState, folder: RunFolder) -> None:
    """Writes the model, then the report; with both there the run is done. `bench` is that of the last round."""
    model = bench.network(state)
    dataset = bench.dataset
    # What is handed over holds standardised weights as they are, in layers without a norm.
    norm = "none" if experiment.model.norm == "nsconv" else experiment.model.norm
    metadata = {
        "hedgerow": version("hedgerow"),
        "torch": version("torch"),
        "model": experiment.model.name,
        "norm": norm,
        "input_shape": dataset.input_shape,
        "classes": dataset.classes,
        "seed": experiment.seed,
        "experiment": experiment.model_dump(mode="json"),
    }
    data = artifact_bytes(model.state_dict(), state.mask, metadata=metadata)
    write_atomically(folder.model, data)
    records = folder.records()
    parameters = sum(p.numel() for p in model.parameters())
    floats = state.floats.size
    write_report(
        folder.report,
        title=description(experiment, bench),
        settings=experiment.model_dump(mode="json", exclude_none=True),
        records=records,
        facts={
            "run": folder.path.name,
            "model": f"{experiment.model.name}, {count_text(parameters)} parameters",
            "data": f"{dataset.name}, {len(dataset.train):,} training and {len(dataset.test):,} test samples",
            "model file": bytes_text(len(data)),
            "seed": str(experiment.seed),
            **_finish(experiment),
            **_privacy(experiment, kept=state.mask.kept),
            "versions": f"hedgerow {version('hedgerow')}, torch {version('torch')}, flwr {version('flwr')}",
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
        },
        sizes=Sizes(dense_model_bytes=4 * (state.mask.size + floats)),
        how_to_load=_HOW_TO_LOAD.format(
            name=experiment.model.name,
            shape=dataset.input_shape,
            classes=dataset.classes,
            norm=norm,
        ),
        ledger=_ledger(experiment, bench=bench, state=state, share=records[-1].measured.native_share),
        paths=read_paths(folder.paths),
    )


def _finish(experiment: Experiment) -> dict[str, str]:
    first = experiment.stretches[-1].first_round
    return {} if first == 1 else {"trained": f"signs, and from round {first} on float weights"}


def _privacy(experiment: Experiment, *, kept: int) -> dict[str, str]:
    told = guarantee(experiment, kept=kept, rounds=experiment.rounds)
    return {"privacy": "; ".join(told)} if told else {}


def _ledger(experiment: Experiment, *, bench: Bench, state: RoundState, share: float | None) -> Ledger | None:
    if share is None:
        return None
    return ledger(
        bench.initial, state.mask, bench.dataset.input_shape, plan_of(experiment.stretches[-1], native=share > 0.5)
    )
