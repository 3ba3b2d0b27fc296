from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_TAKEN: _ClassVar[Verdict]
    VERDICT_DAMAGED: _ClassVar[Verdict]
    VERDICT_UNWANTED: _ClassVar[Verdict]

class Cause(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CAUSE_UNSPECIFIED: _ClassVar[Cause]
    CAUSE_FINISHED: _ClassVar[Cause]
    CAUSE_REPLACED: _ClassVar[Cause]
    CAUSE_EVICTED: _ClassVar[Cause]
    CAUSE_STOPPING: _ClassVar[Cause]
    CAUSE_SILENT: _ClassVar[Cause]

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_WAITING: _ClassVar[State]
    STATE_PRUNING: _ClassVar[State]
    STATE_TRAINING: _ClassVar[State]
    STATE_FINISHED: _ClassVar[State]
    STATE_FAILED: _ClassVar[State]
VERDICT_UNSPECIFIED: Verdict
VERDICT_TAKEN: Verdict
VERDICT_DAMAGED: Verdict
VERDICT_UNWANTED: Verdict
CAUSE_UNSPECIFIED: Cause
CAUSE_FINISHED: Cause
CAUSE_REPLACED: Cause
CAUSE_EVICTED: Cause
CAUSE_STOPPING: Cause
CAUSE_SILENT: Cause
STATE_UNSPECIFIED: State
STATE_WAITING: State
STATE_PRUNING: State
STATE_TRAINING: State
STATE_FINISHED: State
STATE_FAILED: State

class Frame(_message.Message):
    __slots__ = ("hello", "welcome", "heartbeat", "transfer", "chunk", "acknowledgement", "abandon", "dismissal")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    TRANSFER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGEMENT_FIELD_NUMBER: _ClassVar[int]
    ABANDON_FIELD_NUMBER: _ClassVar[int]
    DISMISSAL_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    welcome: Welcome
    heartbeat: Heartbeat
    transfer: Transfer
    chunk: Chunk
    acknowledgement: Acknowledgement
    abandon: Abandon
    dismissal: Dismissal
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., transfer: _Optional[_Union[Transfer, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., acknowledgement: _Optional[_Union[Acknowledgement, _Mapping]] = ..., abandon: _Optional[_Union[Abandon, _Mapping]] = ..., dismissal: _Optional[_Union[Dismissal, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "device", "instance", "memory_bytes", "cores", "software", "examples", "held")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    device: str
    instance: bytes
    memory_bytes: int
    cores: int
    software: str
    examples: int
    held: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, protocol: _Optional[int] = ..., device: _Optional[str] = ..., instance: _Optional[bytes] = ..., memory_bytes: _Optional[int] = ..., cores: _Optional[int] = ..., software: _Optional[str] = ..., examples: _Optional[int] = ..., held: _Optional[_Iterable[str]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "node", "run", "run_config", "heartbeat_seconds", "silence_seconds")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_CONFIG_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SILENCE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    node: int
    run: str
    run_config: str
    heartbeat_seconds: float
    silence_seconds: float
    def __init__(self, protocol: _Optional[int] = ..., node: _Optional[int] = ..., run: _Optional[str] = ..., run_config: _Optional[str] = ..., heartbeat_seconds: _Optional[float] = ..., silence_seconds: _Optional[float] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("resident_bytes", "working_on")
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKING_ON_FIELD_NUMBER: _ClassVar[int]
    resident_bytes: int
    working_on: str
    def __init__(self, resident_bytes: _Optional[int] = ..., working_on: _Optional[str] = ...) -> None: ...

class Transfer(_message.Message):
    __slots__ = ("id", "run", "round", "attempt", "envelope", "size", "sha256", "failure")
    ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    id: str
    run: str
    round: int
    attempt: int
    envelope: bytes
    size: int
    sha256: bytes
    failure: str
    def __init__(self, id: _Optional[str] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., attempt: _Optional[int] = ..., envelope: _Optional[bytes] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ..., failure: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Acknowledgement(_message.Message):
    __slots__ = ("id", "verdict", "reason")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    id: str
    verdict: Verdict
    reason: str
    def __init__(self, id: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class Abandon(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class Dismissal(_message.Message):
    __slots__ = ("cause", "text")
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    cause: Cause
    text: str
    def __init__(self, cause: _Optional[_Union[Cause, str]] = ..., text: _Optional[str] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ("run", "description", "state", "round", "rounds", "asked", "replied", "accuracy", "loss", "density", "kept", "bytes_up", "bytes_down", "uptime_seconds", "devices_attached", "devices_needed", "round_seconds")
    RUN_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    REPLIED_FIELD_NUMBER: _ClassVar[int]
    ACCURACY_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    DENSITY_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    UPTIME_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DEVICES_ATTACHED_FIELD_NUMBER: _ClassVar[int]
    DEVICES_NEEDED_FIELD_NUMBER: _ClassVar[int]
    ROUND_SECONDS_FIELD_NUMBER: _ClassVar[int]
    run: str
    description: str
    state: State
    round: int
    rounds: int
    asked: int
    replied: int
    accuracy: float
    loss: float
    density: float
    kept: int
    bytes_up: int
    bytes_down: int
    uptime_seconds: float
    devices_attached: int
    devices_needed: int
    round_seconds: float
    def __init__(self, run: _Optional[str] = ..., description: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., asked: _Optional[int] = ..., replied: _Optional[int] = ..., accuracy: _Optional[float] = ..., loss: _Optional[float] = ..., density: _Optional[float] = ..., kept: _Optional[int] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ..., uptime_seconds: _Optional[float] = ..., devices_attached: _Optional[int] = ..., devices_needed: _Optional[int] = ..., round_seconds: _Optional[float] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Event(_message.Message):
    __slots__ = ("time", "text", "status")
    TIME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    time: float
    text: str
    status: Status
    def __init__(self, time: _Optional[float] = ..., text: _Optional[str] = ..., status: _Optional[_Union[Status, _Mapping]] = ...) -> None: ...

class ListDevicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Device(_message.Message):
    __slots__ = ("name", "node", "attached", "address", "software", "memory_bytes", "cores", "examples", "resident_bytes", "working_on_round", "seconds_since_heard", "reconnects", "replies", "rejected", "evicted", "level", "too_small")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CORES_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKING_ON_ROUND_FIELD_NUMBER: _ClassVar[int]
    SECONDS_SINCE_HEARD_FIELD_NUMBER: _ClassVar[int]
    RECONNECTS_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    TOO_SMALL_FIELD_NUMBER: _ClassVar[int]
    name: str
    node: int
    attached: bool
    address: str
    software: str
    memory_bytes: int
    cores: int
    examples: int
    resident_bytes: int
    working_on_round: int
    seconds_since_heard: float
    reconnects: int
    replies: int
    rejected: int
    evicted: bool
    level: int
    too_small: bool
    def __init__(self, name: _Optional[str] = ..., node: _Optional[int] = ..., attached: _Optional[bool] = ..., address: _Optional[str] = ..., software: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., cores: _Optional[int] = ..., examples: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., working_on_round: _Optional[int] = ..., seconds_since_heard: _Optional[float] = ..., reconnects: _Optional[int] = ..., replies: _Optional[int] = ..., rejected: _Optional[int] = ..., evicted: _Optional[bool] = ..., level: _Optional[int] = ..., too_small: _Optional[bool] = ...) -> None: ...

class ListDevicesResponse(_message.Message):
    __slots__ = ("devices",)
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    def __init__(self, devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ...) -> None: ...

class EvictDeviceRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class EvictDeviceResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FetchModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...
