from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_MASK: _ClassVar[Kind]
    KIND_SIGNS: _ClassVar[Kind]
    KIND_VOTES: _ClassVar[Kind]
    KIND_WEIGHTS: _ClassVar[Kind]
    KIND_FLOATS: _ClassVar[Kind]

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_UNSPECIFIED: _ClassVar[Codec]
    CODEC_BITS: _ClassVar[Codec]
    CODEC_FLOAT32: _ClassVar[Codec]
    CODEC_BYTES_ZSTD: _ClassVar[Codec]
    CODEC_GAPS_ZSTD: _ClassVar[Codec]
KIND_UNSPECIFIED: Kind
KIND_MASK: Kind
KIND_SIGNS: Kind
KIND_VOTES: Kind
KIND_WEIGHTS: Kind
KIND_FLOATS: Kind
CODEC_UNSPECIFIED: Codec
CODEC_BITS: Codec
CODEC_FLOAT32: Codec
CODEC_BYTES_ZSTD: Codec
CODEC_GAPS_ZSTD: Codec

class Payload(_message.Message):
    __slots__ = ("version", "experiment", "round", "mask_digest", "sections")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    MASK_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SECTIONS_FIELD_NUMBER: _ClassVar[int]
    version: int
    experiment: bytes
    round: int
    mask_digest: bytes
    sections: _containers.RepeatedCompositeFieldContainer[Section]
    def __init__(self, version: _Optional[int] = ..., experiment: _Optional[bytes] = ..., round: _Optional[int] = ..., mask_digest: _Optional[bytes] = ..., sections: _Optional[_Iterable[_Union[Section, _Mapping]]] = ...) -> None: ...

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
