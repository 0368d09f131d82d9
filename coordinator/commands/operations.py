"""`numoe status`, `numoe top` and `numoe events`: how a running service is, once, all the time, and what happened."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing, suppress
from datetime import datetime
from typing import Any

from google.protobuf.message import Message
from rich.live import Live
from rich.text import Text

from numoe.coordinator.commands.options import SERVICE_OPTIONS, ServiceOptions
from numoe.coordinator.commands.screen.terminal import out
from numoe.coordinator.commands.tables.status import describe_status
from numoe.protos.foreign_text import harmless
from numoe.v1.operations_pb2 import ServiceEvent, WatchStatusResponse


def status(*, options: ServiceOptions = SERVICE_OPTIONS, json: bool = False) -> None:
    """Show how a running service is: its state, workers, memory, speeds and open requests.

    Parameters
    ----------
    options
        Which service.
    json
        Write all of it as JSON; the fields are those of numoe.v1.Status.
    """
    with options.connect() as client:
        told = client.status()
    if json:
        out().out(_as_json(told))
    else:
        out().print(describe_status(told))


def top(*, options: ServiceOptions = SERVICE_OPTIONS) -> None:
    """Show how a running service is, every second, until Ctrl-C or the service's end.

    Parameters
    ----------
    options
        Which service.
    """
    with options.connect() as client, suppress(KeyboardInterrupt):
        _show_live(client.watch_status())


def events(*, options: ServiceOptions = SERVICE_OPTIONS, once: bool = False) -> None:
    """Show what happened to a running service and what happens, until Ctrl-C or the service's end.

    Parameters
    ----------
    options
        Which service.
    once
        Show only what has happened.
    """
    with options.connect() as client, suppress(KeyboardInterrupt):
        if once:
            for event in client.events():
                _show_event(event)
            return
        with closing(client.watch_events()) as told:
            for answer in told:
                _show_event(answer.event)


def _show_live(answers: Generator[WatchStatusResponse]) -> None:
    console = out()
    with closing(answers):
        if not console.is_terminal:
            for answer in answers:
                console.print(describe_status(answer.status))
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for answer in answers:
                live.update(describe_status(answer.status), refresh=True)


def _show_event(event: ServiceEvent) -> None:
    console = out()
    time = datetime.fromtimestamp(event.at).astimezone().isoformat(" ", "seconds")
    console.print(Text(f"{time}  {event.kind:<18} {harmless(event.text)}"))
    console.file.flush()


def _as_json(message: Message) -> str:
    return json.dumps(_plain(message), indent=2, ensure_ascii=False)


def _plain(message: Message) -> dict[str, Any]:
    """Every field that is there, numbers as numbers, which protobuf's own JSON writes as texts if they have 64 bits."""
    return {
        field.name: _plain_value(getattr(message, field.name), field)
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _plain_value(value: Any, field: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_plain(one) if field.message_type is not None else one for one in value]
    if field.message_type is not None:
        return _plain(value)
    if field.enum_type is not None:
        prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
        return field.enum_type.values_by_number[value].name.removeprefix(prefix).lower()
    return value
