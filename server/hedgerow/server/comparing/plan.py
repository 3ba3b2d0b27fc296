"""Which runs a comparison is made of, and whether they can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hedgerow.config import Experiment, load_experiment
from hedgerow.errors import ConfigError
from hedgerow.server.comparing.lines import Line

__all__ = ["SPLITS", "Plan", "Run", "differing", "flat_settings", "planned"]

SPLITS = ("rounds", "data.", "fleet.clients", "fleet.cohort", "fleet.oversampling", "fleet.deadline")
"""Settings, or beginnings of them, that decide which samples clients have and whom a round asks, with the seed."""
_PUBLIC = "selection.public_samples"
"""What the coordinator has for itself is missing on clients, so it decides their samples too."""

Settings = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training of a comparison."""

    line: str
    seed: int
    experiment: Experiment

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.line}, seed {self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared.

    Attributes:
        title: of the page.
        lines: the first is what the others are compared with.
        seeds: of each line.
        runs: seed by seed, so that lines can be compared before all is done.
        different: settings that decide splits and differ; none but where that was allowed.
    """

    title: str
    lines: tuple[Line, ...]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    different: tuple[str, ...] = ()

    def of(self, line: str) -> Sequence[Run]:
        """The runs of a line, by seed."""
        return [run for run in self.runs if run.line == line]


def planned(
    path: Path | None,
    *,
    title: str,
    lines: Sequence[Line],
    seeds: int,
    settings: Iterable[tuple[str, object]] = (),
    allow_different: bool = False,
) -> Plan:
    """The plan of a comparison. Each experiment is the recipe, the file's values over it, `settings` over those, then
    those of the line, and the seed.

    Args:
        path: the experiment's TOML file, or None; its seed, or that of `settings`, is the first.
        title: of the page.
        lines: what is compared, at least one.
        seeds: how many seeds, at least 1; they follow each other.
        settings: (dotted key, value) pairs for all lines.
        allow_different: whether lines may differ in what decides the splits.

    Raises:
        ConfigError: a setting is wrong; two lines are one experiment; or lines are not on the same splits.
    """
    shared = list(settings)
    if any(key == "recipe" for key, _ in shared):
        raise ConfigError("--set recipe would give all lines the same one; name them with --recipes or --line instead")
    runs: list[Run] = []
    first = _experiment(path, lines[0], [*shared, *lines[0].settings]).seed
    for seed in range(first, first + seeds):
        for line in lines:
            experiment = _experiment(path, line, [*shared, *line.settings, ("seed", seed)])
            runs.append(Run(line=line.name, seed=seed, experiment=experiment))
    of_first_seed = runs[: len(lines)]
    _check_distinct(of_first_seed)
    different = tuple(differing(of_first_seed, only=(*SPLITS, _PUBLIC)))
    if different and not allow_different:
        raise ConfigError(_difference_text(different[0], of_first_seed))
    return Plan(
        title=title,
        lines=tuple(lines),
        seeds=tuple(range(first, first + seeds)),
        runs=tuple(runs),
        different=different,
    )


def flat_settings(experiment: Experiment) -> dict[str, object]:
    """All settings by dotted key.

    >>> flat_settings(Experiment())["data.partition"]
    'dirichlet'
    """
    return dict(_flat("", experiment.model_dump(mode="json")))


def differing(runs: Sequence[Run], *, only: Sequence[str] = ("",)) -> list[str]:
    """Keys, of those that begin so, whose values are not the same in all experiments, in the order of the schema."""
    settings = [flat_settings(run.experiment) for run in runs]
    return [
        key
        for key, value in settings[0].items()
        if key.startswith(tuple(only)) and any(other[key] != value for other in settings[1:])
    ]


def _experiment(path: Path | None, line: Line, overrides: Iterable[tuple[str, object]]) -> Experiment:
    try:
        return load_experiment(path, recipe=line.recipe, overrides=overrides)
    except ConfigError as error:
        raise ConfigError(f"line {line.name}: {error}") from None


def _flat(prefix: str, tree: Settings) -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _check_distinct(runs: Iterable[Run]) -> None:
    lines: dict[str, str] = {}
    for run in runs:
        other = lines.setdefault(run.experiment.digest(), run.line)
        if other != run.line:
            raise ConfigError(
                f"lines {other} and {run.line} are one and the same experiment; a line's own settings have to change "
                "something, and the experiment's file must not set all that recipes do"
            )


def _difference_text(key: str, runs: Sequence[Run]) -> str:
    values = [(run.line, flat_settings(run.experiment)[key]) for run in runs]
    one, value = values[0]
    other, found = next(pair for pair in values if pair[1] != value)
    return (
        f"{key} is {value} in line {one} and {found} in line {other}, so they would not be on the same splits; set it "
        "in the experiment's file for all of them, or pass --allow-different"
    )
