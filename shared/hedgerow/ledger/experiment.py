"""The plan that an experiment's settings make."""

from __future__ import annotations

import torch

from hedgerow.config import Experiment
from hedgerow.ledger.plan import Plan
from hedgerow.native.library import status

__all__ = ["plan_of"]

_VALUE_BITS = {"exact": 32.0, "int8": 8.0, "int4": 5.5, "topk": 32.0}
_RECTIFIED_BITS = {"int4": 4.0}
"""Of what a ReLU made, half of which is taken to be 0 (see `hedgerow.activations.Quantised`)."""


def plan_of(experiment: Experiment, *, native: bool) -> Plan:
    """What a client of `experiment` does, on a machine where native kernels compute most of it or not.

    Whether it has them at all, where they do not, is taken from this machine.

    >>> plan_of(Experiment(), native=True).samples
    16
    """
    training = experiment.training
    signs, sampled = experiment.representation != "weights", experiment.representation == "supermask"
    value_bits = _VALUE_BITS[training.activations]
    # Of topk: a bit says whether an element is there, and those that are have 16.
    input_bits = 1 + 16 * training.keep_ratio if training.activations == "topk" else value_bits
    return Plan(
        samples=training.at_once,
        parts=training.at_once < training.batch_size,
        native=native,
        compact=native or status().available,
        # Adam has two values of its own.
        state_bytes=8 if sampled else 0 if signs or experiment.weights.momentum == 0 else 4,
        value_bits=value_bits,
        input_bits=input_bits,
        standard_only=training.topk_layers == "standardised",
        rectified_bits=_RECTIFIED_BITS.get(training.activations),
        recompute=training.recompute,
        signs=signs,
        sampled=sampled,
        magnitude_bytes=4 if sampled or (signs and experiment.signs.magnitude == "random") else 0,
        start_bytes=4 if training.proximal else 0,
        threads=torch.get_num_threads(),
    )
