"""From plain data to the messages of numoe.v1 that have the same names: every field of a message is one of the data's.

*Not guaranteed*: that a message holds all of the data; it holds what it has fields for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message


def fill_message(message: Message, data: object, leave_out: tuple[str, ...] = ()) -> None:
    """Set every field of a message from the attribute of that name; None leaves it absent."""
    for field in message.DESCRIPTOR.fields:
        if field.name not in leave_out:
            value = getattr(data, field.name)
            if value is not None:
                _set(message, field, value)


def _set(message: Message, field: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        getattr(message, field.name).update(value)
    elif field.is_repeated:
        repeated = getattr(message, field.name)
        if field.message_type is None:
            repeated.extend(value)
        else:
            for one in value:
                fill_message(repeated.add(), one)
    elif field.message_type is not None:
        fill_message(getattr(message, field.name), value)
    elif field.enum_type is not None:
        setattr(message, field.name, _number_of(field.enum_type, value))
    else:
        setattr(message, field.name, value)


def _number_of(enum: EnumDescriptor, word: str) -> int:
    """The number of the enum's value that ends in a word: "ready" is WORKER_STATE_READY."""
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    number: int = enum.values_by_name[prefix + word.upper()].number
    return number
