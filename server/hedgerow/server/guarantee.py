"""What the noise of an experiment guarantees to a device, in words."""

from __future__ import annotations

from hedgerow.config import Experiment
from hedgerow.errors import ConfigError
from hedgerow.privacy import gaussian_epsilon, votes_epsilon

__all__ = ["guarantee"]


def guarantee(experiment: Experiment, *, kept: int, rounds: int) -> list[str]:
    """One sentence for each thing that is protected, none without noise.

    Args:
        experiment: its settings.
        kept: number of kept weights, so of votes in a message.
        rounds: in which a device takes part.
    """
    privacy, lines, finish = experiment.privacy, [], min(experiment.finish_rounds, rounds)
    if privacy.vote_epsilon is not None and experiment.representation != "weights":
        voted = min(rounds, experiment.rounds - experiment.finish_rounds) if finish else rounds
        whole = [
            votes_epsilon(votes=kept, rounds=times, epsilon=privacy.vote_epsilon, delta=privacy.delta)
            for times in (1, voted)
        ]
        lines.append(
            f"each vote: ε = {privacy.vote_epsilon:g}; all {kept:,} votes of a message: ε = {whole[0]:,.4g}, "
            f"of {voted} rounds ε = {whole[1]:,.4g} (δ = {privacy.delta:g})"
        )
    if privacy.noise:
        # With float weights a message brings two vectors, each clipped and noised on its own.
        twice = rounds if experiment.representation == "weights" else finish
        try:
            each, whole_run = (
                gaussian_epsilon(multiplier=privacy.noise, rounds=times, delta=privacy.delta)
                for times in (2 if twice else 1, rounds + twice)
            )
        except ConfigError as error:
            return [*lines, f"changes of floats: {error}"]
        lines.append(
            f"changes of floats: ε = {each:,.4g} a message, {whole_run:,.4g} of {rounds} rounds (δ = {privacy.delta:g})"
        )
    return lines
