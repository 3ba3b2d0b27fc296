"""A run's status and its devices, as values for programs and as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message
from rich import box
from rich.table import Table
from rich.text import Text

from hedgerow.server.control.board import state_text
from hedgerow.units import MISSING, bytes_text, clean_text, count_text, finite, percent_text, seconds_text
from hedgerow.v1.fleet_pb2 import Device, Status

__all__ = ["device_facts", "devices_table", "round_facts", "status_facts", "status_lines"]


def status_facts(status: Status) -> dict[str, object]:
    """The fields of `Status` as JSON can hold them; null where there is no value."""
    facts = _facts(status)
    for name in ("accuracy", "loss"):
        facts[name] = finite(getattr(status, name)) if status.HasField(name) else None
    return {**facts, "state": state_text(status.state)}


def device_facts(device: Device) -> dict[str, object]:
    """The fields of `Device` as JSON can hold them."""
    return {**_facts(device), "level": device.level if device.HasField("level") else None}


def status_lines(status: Status) -> list[str]:
    """A run in a few lines."""
    return [
        clean_text(status.description) or "the run is being prepared",
        f"  run       {clean_text(status.run) or MISSING}, {state_text(status.state)}, "
        f"for {seconds_text(status.uptime_seconds)}",
        f"  rounds    {round_facts(status)}",
        f"  result    {_result(status)}",
        f"  bytes     up {bytes_text(status.bytes_up)}, down {bytes_text(status.bytes_down)}",
        f"  devices   {status.devices_attached} attached, {status.devices_needed} needed",
    ]


def round_facts(status: Status) -> str:
    """How far it is.

    >>> round_facts(Status(round=3, rounds=10, asked=4, replied=1, round_seconds=2.0))
    '3 of 10, the last took 2.00 s; 1 of 4 replies of the next are in'
    """
    text = f"{status.round} of {status.rounds}"
    if status.round:
        text += f", the last took {seconds_text(status.round_seconds)}"
    if status.asked:
        text += f"; {status.replied} of {status.asked} replies of the next are in"
    return text


def devices_table(devices: Sequence[Device]) -> Table:
    """A row a device, in 80 columns but for long names."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("device", overflow="fold")
    table.add_column("state", no_wrap=True)
    for title in ("round", "memory", "examples", "heard", "reconnects", "rejected"):
        table.add_column(title, justify="right", no_wrap=True)
    planned = any(device.HasField("level") or device.too_small for device in devices)
    if planned:
        table.add_column("level", justify="right", no_wrap=True)
    for device in devices:
        table.add_row(
            Text(clean_text(device.name)),
            _device_state(device),
            str(device.working_on_round or MISSING),
            bytes_text(device.resident_bytes or None),
            count_text(device.examples),
            seconds_text(device.seconds_since_heard),
            count_text(device.reconnects),
            count_text(device.rejected),
            *([_level(device)] if planned else []),
        )
    return table


def _result(status: Status) -> str:
    if not status.kept:
        return "no mask yet"
    accuracy = percent_text(status.accuracy, decimals=2) if status.HasField("accuracy") else MISSING
    loss = f", loss {status.loss:.3f}" if status.HasField("loss") else ""
    return f"accuracy {accuracy}{loss}, {count_text(status.kept)} kept weights, density {status.density:.4g}"


def _level(device: Device) -> str:
    if device.too_small:
        return "too small"
    return str(device.level) if device.HasField("level") else MISSING


def _device_state(device: Device) -> str:
    if device.evicted:
        return "evicted"
    if not device.attached:
        return "away"
    return "works" if device.working_on_round else "idle"


def _facts(message: Message) -> dict[str, object]:
    facts: dict[str, object] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        facts[field.name] = finite(value) if isinstance(value, float) else value
    return facts
