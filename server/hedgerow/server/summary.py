"""What a run came to, for the terminal."""

from __future__ import annotations

from pathlib import Path

from hedgerow.config import Experiment
from hedgerow.telemetry import RoundRecord, read_records
from hedgerow.units import bytes_text, percent_text

__all__ = ["records_of", "summary"]


def records_of(out: Path, experiment: Experiment) -> list[RoundRecord]:
    """What was recorded of an experiment, in the folder of all runs."""
    path = out / experiment.digest() / "metrics.jsonl"
    return read_records(path) if path.exists() else []


def summary(records: list[RoundRecord], path: Path, *, already_done: bool) -> str:
    """What a finished run came to, in a few lines."""
    last = records[-1]
    up, down = sum(r.bytes_up for r in records), sum(r.bytes_down for r in records)
    peaks = [r.measured.client_peak_bytes for r in records if r.measured.client_peak_bytes is not None]
    replies = sum(r.replies for r in records)
    lines = [
        f"already done: {path}" if already_done else f"done: {path}",
        f"  accuracy        {percent_text(last.accuracy, decimals=2)} on the test samples after {last.round} rounds",
        f"  network         {last.kept:,} kept weights, density {last.density:.4f}",
        f"  bytes           up {bytes_text(up)}, down {bytes_text(down)}, both {bytes_text(up + down)}",
        f"  uplink          {8 * up / max(replies * last.kept, 1):.2f} bits a kept weight and reply, all included",
    ]
    if peaks:
        lines.append(f"  client memory   {bytes_text(max(peaks))} measured peak of training")
    lines += [
        f"  model           {path / 'model.safetensors'} ({bytes_text((path / 'model.safetensors').stat().st_size)})",
        f"  report          {path / 'report.html'}",
    ]
    return "\n".join(lines)
