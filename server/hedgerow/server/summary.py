"""What a run came to, for the terminal."""

from __future__ import annotations

from pathlib import Path

from hedgerow.config import Experiment
from hedgerow.server.guarantee import guarantee
from hedgerow.server.paths import read_paths
from hedgerow.telemetry import RoundRecord, read_records
from hedgerow.units import bytes_text, clean_text, factor_text, percent_text

__all__ = ["records_of", "summary"]


def records_of(out: Path, experiment: Experiment) -> list[RoundRecord]:
    """What was recorded of an experiment, in the folder of all runs."""
    path = out / experiment.digest() / "metrics.jsonl"
    return read_records(path) if path.exists() else []


def summary(experiment: Experiment, records: list[RoundRecord], path: Path, *, already_done: bool) -> str:
    """What a finished run came to, in a few lines."""
    last = records[-1]
    up, down = sum(r.all_bytes_up for r in records), sum(r.all_bytes_down for r in records)
    trained, replies = sum(r.bytes_up for r in records), sum(r.replies for r in records)
    lines = [
        f"already done: {path}" if already_done else f"done: {path}",
        f"  accuracy        {percent_text(last.accuracy, decimals=2)} on the test samples after {last.round} rounds",
        f"  network         {last.kept:,} kept weights, density {last.density:.4f}{_finish(experiment)}",
        f"  bytes           up {bytes_text(up)}, down {bytes_text(down)}, both {bytes_text(up + down)}",
        f"  uplink          {8 * trained / max(replies * last.kept, 1):.2f} bits a kept weight and reply, all included",
    ]
    lines += [f"  mask            {text}" for text in [_mask(records)] if text]
    told = guarantee(experiment, kept=last.kept, rounds=experiment.rounds)
    lines += [f"  privacy         {text}" for text in told]
    lines += [f"  client memory   {text}" for text in [_memory(records)] if text]
    lines += [f"  client kernels  {text}" for text in [_kernels(records, path)] if text]
    lines += [
        f"  model           {path / 'model.safetensors'} ({bytes_text((path / 'model.safetensors').stat().st_size)})",
        f"  report          {path / 'report.html'}",
    ]
    return "\n".join(lines)


def _finish(experiment: Experiment) -> str:
    first = experiment.stretches[-1].first_round
    return "" if first == 1 else f", in float since round {first}"


def _mask(records: list[RoundRecord]) -> str:
    selection = next((r.selection for r in records if r.selection is not None), None)
    adjustments = [r.adjustment for r in records if r.adjustment is not None]
    parts = []
    if selection is not None:
        name = clean_text(selection.candidates[selection.winner].name, 60)
        parts.append(f"chosen among {_counted(len(selection.candidates), 'candidate')} ({name})")
    if adjustments:
        weights = sum(adjustment.weights for adjustment in adjustments)
        done = "exchanged" if all(adjustment.balanced for adjustment in adjustments) else "pruned"
        parts.append(f"{_counted(len(adjustments), 'adjustment')} {done} {_counted(weights, 'weight')}")
    return ", ".join(parts)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _memory(records: list[RoundRecord]) -> str:
    known = [r.measured for r in records if r.measured.client_peak_bytes is not None]
    if not known:
        held = max((r.measured.client_held_bytes or 0 for r in records), default=0)
        return f"{bytes_text(held)} held at most for a request" if held else ""
    largest = max(known, key=lambda measured: measured.client_peak_bytes or 0)
    computed = largest.client_ledger_bytes
    beside = "" if computed is None else f", {bytes_text(computed.peak)} computed"
    return f"{bytes_text(largest.client_peak_bytes)} measured peak of training{beside}"


def _kernels(records: list[RoundRecord], path: Path) -> str:
    share = next((r.measured.native_share for r in reversed(records) if r.measured.native_share is not None), None)
    if share is None:
        return ""
    if share == 0:
        return "torch's own for all kept weights"
    ratio = (read_paths(path / "paths.json") or {}).get("step_ratio")
    beside = f", a step {factor_text(ratio)} as fast as dense" if isinstance(ratio, float) and ratio > 1 else ""
    return f"native for {percent_text(share)} of the kept weights{beside}"
