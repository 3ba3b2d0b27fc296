from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_TRAIN: _ClassVar[Task]
    TASK_RECALIBRATE: _ClassVar[Task]
    TASK_EVALUATE: _ClassVar[Task]
    TASK_PLAN: _ClassVar[Task]

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_MASK: _ClassVar[Kind]
    KIND_SIGNS: _ClassVar[Kind]
    KIND_VOTES: _ClassVar[Kind]
    KIND_WEIGHTS: _ClassVar[Kind]
    KIND_FLOATS: _ClassVar[Kind]
    KIND_FLIPS: _ClassVar[Kind]
    KIND_MASK_DELTA: _ClassVar[Kind]
    KIND_DRIFT: _ClassVar[Kind]
    KIND_TOP_K: _ClassVar[Kind]
    KIND_COUNTS: _ClassVar[Kind]
    KIND_STATISTICS: _ClassVar[Kind]
    KIND_LOSSES: _ClassVar[Kind]
    KIND_GRADIENTS: _ClassVar[Kind]

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_UNSPECIFIED: _ClassVar[Codec]
    CODEC_BITS: _ClassVar[Codec]
    CODEC_FLOAT32: _ClassVar[Codec]
    CODEC_BYTES_ZSTD: _ClassVar[Codec]
    CODEC_GAPS_ZSTD: _ClassVar[Codec]
    CODEC_BITS_RANS: _ClassVar[Codec]
    CODEC_GAPS_RANS: _ClassVar[Codec]
    CODEC_BITS_ZSTD: _ClassVar[Codec]
    CODEC_SYMBOLS_RANS: _ClassVar[Codec]
    CODEC_MASK_RANS: _ClassVar[Codec]
    CODEC_FLOAT16: _ClassVar[Codec]
    CODEC_BFLOAT16: _ClassVar[Codec]
    CODEC_ORDERED16: _ClassVar[Codec]
    CODEC_ORDERED_BFLOAT16: _ClassVar[Codec]
    CODEC_INT8_BLOCK: _ClassVar[Codec]
    CODEC_UNIFORM: _ClassVar[Codec]
    CODEC_MASK_DRAWN: _ClassVar[Codec]
TASK_TRAIN: Task
TASK_RECALIBRATE: Task
TASK_EVALUATE: Task
TASK_PLAN: Task
KIND_UNSPECIFIED: Kind
KIND_MASK: Kind
KIND_SIGNS: Kind
KIND_VOTES: Kind
KIND_WEIGHTS: Kind
KIND_FLOATS: Kind
KIND_FLIPS: Kind
KIND_MASK_DELTA: Kind
KIND_DRIFT: Kind
KIND_TOP_K: Kind
KIND_COUNTS: Kind
KIND_STATISTICS: Kind
KIND_LOSSES: Kind
KIND_GRADIENTS: Kind
CODEC_UNSPECIFIED: Codec
CODEC_BITS: Codec
CODEC_FLOAT32: Codec
CODEC_BYTES_ZSTD: Codec
CODEC_GAPS_ZSTD: Codec
CODEC_BITS_RANS: Codec
CODEC_GAPS_RANS: Codec
CODEC_BITS_ZSTD: Codec
CODEC_SYMBOLS_RANS: Codec
CODEC_MASK_RANS: Codec
CODEC_FLOAT16: Codec
CODEC_BFLOAT16: Codec
CODEC_ORDERED16: Codec
CODEC_ORDERED_BFLOAT16: Codec
CODEC_INT8_BLOCK: Codec
CODEC_UNIFORM: Codec
CODEC_MASK_DRAWN: Codec

class Payload(_message.Message):
    __slots__ = ("version", "experiment", "round", "mask_digest", "sections", "base", "tensors", "task", "candidates", "growth", "levels")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MASK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SECTIONS_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    GROWTH_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    version: int
    experiment: bytes
    round: int
    mask_digest: bytes
    sections: _containers.RepeatedCompositeFieldContainer[Section]
    base: int
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    task: Task
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    growth: _containers.RepeatedCompositeFieldContainer[Growth]
    levels: _containers.RepeatedCompositeFieldContainer[Level]
    def __init__(self, version: _Optional[int] = ..., experiment: _Optional[bytes] = ..., round: _Optional[int] = ..., mask_digest: _Optional[bytes] = ..., sections: _Optional[_Iterable[_Union[Section, _Mapping]]] = ..., base: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., task: _Optional[_Union[Task, str]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., growth: _Optional[_Iterable[_Union[Growth, _Mapping]]] = ..., levels: _Optional[_Iterable[_Union[Level, _Mapping]]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("mask_digest", "sections")
    MASK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SECTIONS_FIELD_NUMBER: _ClassVar[int]
    mask_digest: bytes
    sections: _containers.RepeatedCompositeFieldContainer[Section]
    def __init__(self, mask_digest: _Optional[bytes] = ..., sections: _Optional[_Iterable[_Union[Section, _Mapping]]] = ...) -> None: ...

class Level(_message.Message):
    __slots__ = ("kept",)
    KEPT_FIELD_NUMBER: _ClassVar[int]
    kept: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, kept: _Optional[_Iterable[int]] = ...) -> None: ...

class Growth(_message.Message):
    __slots__ = ("tensor", "count", "marked")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MARKED_FIELD_NUMBER: _ClassVar[int]
    tensor: int
    count: int
    marked: int
    def __init__(self, tensor: _Optional[int] = ..., count: _Optional[int] = ..., marked: _Optional[int] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "shape", "prunable")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    PRUNABLE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    prunable: bool
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., prunable: _Optional[bool] = ...) -> None: ...

class Section(_message.Message):
    __slots__ = ("kind", "codec", "count", "parameter", "data")
    KIND_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PARAMETER_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    codec: Codec
    count: int
    parameter: int
    data: bytes
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., codec: _Optional[_Union[Codec, str]] = ..., count: _Optional[int] = ..., parameter: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
