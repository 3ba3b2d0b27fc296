"""`hedgerow simulate`: many clients on this machine, no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hedgerow.config.load import load_experiment, parse_override
from hedgerow.units import bytes_text, percent_text

if TYPE_CHECKING:
    from hedgerow.config import Experiment
    from hedgerow.server.progress import Observer
    from hedgerow.telemetry import RoundRecord

__all__ = ["simulate"]


def simulate(
    experiment: Annotated[
        Path | None, typer.Argument(metavar="[EXPERIMENT.toml]", help="Settings; the recipe's own where absent.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Preset to start from; see `hedgerow recipes`.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: --set pruning.density=0.1; repeatable."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A built-in model's name, or your own package.module:function.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="A data set's name, or your own package.module:function.")] = None,
    data_path: Annotated[Path | None, typer.Option(help="File or folder of the data set.")] = None,
    density: Annotated[float | None, typer.Option(help="Kept fraction of the weights, above 0 and at most 1.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Number of rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything random.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; as many as cores when absent.")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Serve Prometheus metrics on this loopback port while it runs.")
    ] = None,
) -> None:
    """Trains one pruned network across many clients on this machine.

    The same command again goes on where the run stopped, or says that it is done.
    """
    overrides = [parse_override(text) for text in settings or []]
    shortcuts = {
        "model.name": model,
        "data.name": data,
        "data.path": None if data_path is None else str(data_path),
        "pruning.density": density,
        "rounds": rounds,
        "seed": seed,
    }
    overrides += [(key, value) for key, value in shortcuts.items() if value is not None]
    chosen = load_experiment(experiment, recipe=recipe, overrides=overrides)
    _run(chosen, out=out, workers=workers, metrics_port=metrics_port)


def _run(experiment: Experiment, *, out: Path, workers: int | None, metrics_port: int | None) -> None:
    # torch and flwr take seconds to import; `--help` and a mistaken key must not wait for them.
    from hedgerow.server.simulation import simulate as run
    from hedgerow.telemetry import read_records

    observer = _observer(metrics_port)
    done_before = len(_records(out, experiment)) > experiment.rounds
    path = run(experiment, out=out, workers=workers, observer=observer)
    records = read_records(path / "metrics.jsonl")
    typer.echo(summary(records, path, already_done=done_before))


def _observer(metrics_port: int | None) -> Observer:
    from rich.console import Console

    from hedgerow.server.progress import ManyObservers, MetricsObserver, PlainObserver, TerminalObserver

    console = Console()
    shown = TerminalObserver(console) if console.is_terminal else PlainObserver(console)
    return shown if metrics_port is None else ManyObservers(shown, MetricsObserver(port=metrics_port))


def _records(out: Path, experiment: Experiment) -> list[RoundRecord]:
    from hedgerow.telemetry import read_records

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
