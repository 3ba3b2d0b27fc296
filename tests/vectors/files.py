"""All vectors, file by file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hedgerow.errors import PayloadError
from tests.vectors.coders import CODER_EXAMPLES, CODER_WAYS
from tests.vectors.form import Example, Json, Way, holds_of, sent_of
from tests.vectors.looks import LOOK_EXAMPLES, LOOK_WAYS
from tests.vectors.payload_examples import PAYLOAD_EXAMPLES
from tests.vectors.payloads import PAYLOAD_WAYS
from tests.vectors.plans import PLAN_EXAMPLES, PLAN_WAYS
from tests.vectors.refused import refused_vectors
from tests.vectors.section_examples import SECTION_EXAMPLES
from tests.vectors.sections import SECTION_WAYS

__all__ = ["EXAMPLES", "WAYS", "made_vectors"]

WAYS: Mapping[str, Way] = {**CODER_WAYS, **SECTION_WAYS, **PAYLOAD_WAYS, **LOOK_WAYS, **PLAN_WAYS}

EXAMPLES: Mapping[str, Sequence[Example]] = {
    "coders": CODER_EXAMPLES,
    "sections": SECTION_EXAMPLES,
    "payloads": (*PAYLOAD_EXAMPLES, *LOOK_EXAMPLES, *PLAN_EXAMPLES),
}


def made_vectors() -> dict[str, list[dict[str, Json]]]:
    """The vectors of each file, by the file's name without its ending."""
    made = {name: [_vector(example) for example in examples] for name, examples in EXAMPLES.items()}
    made["refused"] = [
        {**vector, "kind_of_error": _refusal(vector)}
        for vector in refused_vectors([vector for vectors in made.values() for vector in vectors])
    ]
    return made


def _vector(example: Example) -> dict[str, Json]:
    vector = {"name": example.name, "what": example.what, "knows": example.knows, "sent": sent_of(example, WAYS)}
    return {**vector, "holds": holds_of(vector, WAYS)}


def _refusal(vector: Mapping[str, Json]) -> str:
    try:
        holds_of(vector, WAYS)
    except PayloadError as error:
        return error.kind
    raise AssertionError(f"{vector['name']!r} is not refused")
