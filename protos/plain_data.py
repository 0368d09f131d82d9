"""From plain data to the messages of numoe.v1 whose fields have the same names, and from them to frozen dataclasses.

*Not guaranteed*: that the one holds all of the other; each holds what it has fields for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

Read = TypeVar("Read")


def fill_message(message: Message, data: object, leave_out: tuple[str, ...] = ()) -> None:
    """Set every field of a message from the attribute of that name; None leaves it absent."""
    for field in message.DESCRIPTOR.fields:
        if field.name not in leave_out:
            value = getattr(data, field.name)
            if value is not None:
                _set(message, field, value)


def read_message(kind: type[Read], message: Message, **others: object) -> Read:
    """A dataclass from the fields of those names, but for `others`; what is absent is None, the repeated a tuple."""
    hashable: Any = kind  # which a type's type does not say
    inner = _inner_kinds(hashable)
    told = {name: _get(message, name, inner[name]) for name in inner if name not in others}
    return kind(**told, **others)


@cache
def _inner_kinds(kind: Any) -> Mapping[str, Any]:
    """Of each field of a dataclass the dataclass that its values are of; None: they are plain."""
    hints = get_type_hints(kind)
    parts = {field.name: (hints[field.name], *get_args(hints[field.name])) for field in fields(kind)}
    return {name: next(filter(is_dataclass, found), None) for name, found in parts.items()}


def _get(message: Message, name: str, inner: Any) -> Any:
    field: Any = message.DESCRIPTOR.fields_by_name[name]
    value = getattr(message, name)
    if field.is_repeated:
        return tuple(value if inner is None else (read_message(inner, one) for one in value))
    if field.has_presence and not message.HasField(name):
        return None
    if field.enum_type is not None:
        return _word_of(field.enum_type, value)
    return value if inner is None else read_message(inner, value)


def _set(message: Message, field: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        getattr(message, field.name).update(value)
    elif field.is_repeated:
        repeated = getattr(message, field.name)
        if field.message_type is None:
            if value:  # to extend by nothing has the message count as given
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
    number: int = enum.values_by_name[_prefix(enum) + word.upper()].number
    return number


def _word_of(enum: EnumDescriptor, number: int) -> str:
    """The reverse; the number itself where a newer service says what is not known here."""
    value = enum.values_by_number.get(number)
    return str(number) if value is None else value.name.removeprefix(_prefix(enum)).lower()


def _prefix(enum: EnumDescriptor) -> str:
    prefix: str = enum.values[0].name.removesuffix("UNSPECIFIED")
    return prefix
