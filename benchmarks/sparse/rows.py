"""What is printed: a line for each case, and one for each figure that has to be reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.sparse.networks import Case
from benchmarks.targets import Target, table_of
from hedgerow.sparse import PathChoice
from hedgerow.units import percent_text

__all__ = ["case_line", "paths_text", "table_head", "target_table", "targets"]

TITLES = {"resnet18": "ResNet-18", "conv4": "Conv-4", "mobilenetv2": "MobileNetV2"}
RULES = {"uniform": "uniform", "erk": "ERK"}

Figures = Mapping[str, float]


def table_head() -> str:
    """The first two lines of the cases' table, in Markdown so that it can stand in a README."""
    headings = ("model", "mask", "density", "dense, ms", "ours, ms", "faster", "±", "less memory", "native kernels")
    return "| " + " | ".join(headings) + " |\n|---|---" + "|--:" * 7 + "|"


def case_line(case: Case, figures: Figures, *, paths: str) -> str:
    """One line of that table."""
    of = {key.removeprefix(f"{case.name}."): v for key, v in figures.items() if key.startswith(f"{case.name}.")}
    cells = (
        TITLES[case.model],
        RULES[case.rule],
        f"{case.density:g}",
        f"{of['dense_ms']:.0f}",
        f"{of['ours_ms']:.0f}",
        f"{of['ratio']:.2f}×",
        percent_text(of["spread"]),
        f"{of['memory_ratio']:.2f}×",
        paths,
    )
    return "| " + " | ".join(cells) + " |"


def paths_text(choice: PathChoice | None) -> str:
    """How the layers of a network compute."""
    if choice is None:
        return "all layers"
    native = sum(layer.path == "native" for layer in choice.layers)
    return f"{native} of {len(choice.layers)} layers"


def targets(figures: Figures) -> Iterator[Target]:
    """Those of the figures' own that something is asked of."""
    for target in _targets():
        # Differences in rounding grow by chance: one or two seeds say nothing.
        told = target.figure != "drift.share" or figures.get("drift.seeds", 0) >= 5
        if target.figure in figures and told:
            yield target


def target_table(figures: Figures) -> str:
    """Markdown of what is asked and what was measured."""
    return table_of(targets(figures), figures)


def _targets() -> Iterator[Target]:
    step = "a whole step is faster by"
    for density, asked in ((0.1, 3.2), (0.05, 4.7), (0.01, 7.5)):
        name = f"resnet18.uniform.{density:g}.ratio"
        yield Target(title=f"ResNet-18, uniform mask, density {density:g}: {step}", figure=name, asked=asked)
    yield Target(title=f"ResNet-18, ERK, 0.05: {step}", figure="resnet18.erk.0.05.ratio", asked=3)
    yield Target(title=f"Conv-4, uniform mask, 0.05: {step}", figure="conv4.uniform.0.05.ratio", asked=3)
    # 5 % slower.
    yield Target(title="the slowest of all lines is faster by", figure="slowest.ratio", asked=1 / 1.05)
    for name, title in (("resnet18", "ResNet-18"), ("conv4", "Conv-4")):
        line = f"{title}, uniform mask, 0.05, signs"
        yield Target(
            title=f"{line}: a step takes, of one of floats", figure=f"signs.{name}.share", asked=1.1, at_most=True
        )
    lean = "ResNet-18, uniform mask, 0.05, memory mode"
    yield Target(title=f"{lean}: its peak is smaller by", figure="memory.ratio", asked=7)
    yield Target(title=f"{lean}: {step}", figure="memory.speed", asked=2)
    yield Target(
        title="a limit of 30 % of what dense needs: two steps of it trained by dense, of 1",
        figure="limit.dense_trained",
        asked=0,
        at_most=True,
        text=_count,
    )
    yield Target(title="… and by memory mode", figure="limit.ours_trained", asked=1, text=_count)
    for name, title in (("resnet18", "ResNet-18"), ("conv4", "Conv-4")):
        for kind, of in (("floats", "the weights"), ("signs", "the signs' weights")):
            yield Target(
                title=f"{title}, 0.1: error of the gradient of {of}, of its norm, against float64",
                figure=f"gradients.{name}.{kind}.ours",
                asked=1e-5,
                at_most=True,
                text=lambda value: f"{value:.1e}",
            )
    yield Target(
        title="Conv-4, 0.05: how far losses drift from dense, of how far dense does on other threads",
        figure="drift.share",
        asked=1,
        at_most=True,
    )


def _count(value: float) -> str:
    return f"{value:.0f}"
