"""The rooms of the product: every folder that holds code, and which others each may import from.

Listed from the bottom up: a room may name only rooms that stand above it here, so there can be no circle. "model/*"
names all rooms below model/. A module may always import its own room.
"""

from __future__ import annotations

from collections.abc import Mapping

SCHEMAS = "protos/numoe/v1"  # and what is generated from them, imported as numoe.v1
OTHERS_SCHEMAS = "protos/numoe/oip"  # of a protocol that is not ours, likewise
PLANNED = (
    "model/gguf",
    "model/architectures",
    "model/planning",
    "protos",
)  # what both processes know of a served model

ROOMS: Mapping[str, tuple[str, ...]] = {
    SCHEMAS: (),
    OTHERS_SCHEMAS: (),
    "protos": (),
    "client": ("protos", SCHEMAS),
    "keeper": (),
    "model/gguf": ("protos",),
    "model/text": ("protos",),
    "model/chat": ("model/text", "protos"),
    "model/machine": ("protos",),
    "model/architectures": ("model/gguf", "protos"),
    "model/made_up": ("model/gguf", "model/text", "protos"),
    "model/planning": ("model/gguf", "model/architectures", "model/machine", "protos"),
    "model/planning/prediction": ("model/machine", *PLANNED),
    "model/packed": PLANNED,
    "model/doctor": ("model/machine", *PLANNED),
    "kernels": (),  # the records that a step is given
    "kernels/cpu": ("protos",),  # the cache folder
    "kernels/threads": ("kernels/cpu",),
    "kernels/weights": ("kernels", "kernels/cpu"),
    "kernels/matmul": ("kernels", "kernels/cpu", "kernels/threads", "kernels/weights"),
    "kernels/attention": ("kernels", "kernels/cpu", "kernels/threads", "kernels/weights", "kernels/matmul"),
    "kernels/experts": ("kernels", "kernels/cpu", "kernels/threads", "kernels/weights", "kernels/matmul"),
    "kernels/step": ("kernels", "kernels/*"),
    "worker/placing": ("kernels/cpu", "kernels/threads", "model/machine", "model/planning", "protos"),
    "worker/loading": ("worker/placing", "keeper", "kernels", "kernels/weights", "model/packed", *PLANNED),
    "worker/packing": ("worker/loading", "kernels/cpu", "kernels/weights", "model/packed", *PLANNED),
    "worker/running": ("worker/placing", "worker/loading", "keeper", "kernels", "kernels/*", "model/packed", *PLANNED),
    "coordinator": ("model/gguf", "protos"),  # settings, addresses, logs, progress
    "coordinator/access": ("coordinator", "protos"),
    "coordinator/requests": ("model/text", "protos"),
    "coordinator/constraints": ("coordinator/requests", "model/text", "protos"),
    "coordinator/engine/kv": ("protos",),
    "coordinator/engine/scheduling": ("protos",),
    "coordinator/engine/drafting": ("protos",),
    "coordinator/engine": (
        "coordinator",
        "coordinator/requests",
        "coordinator/engine/kv",
        "coordinator/engine/scheduling",
        "coordinator/engine/drafting",
        "model/text",
        "protos",
    ),
    "coordinator/hub": ("coordinator", "model/gguf", "protos"),
    "coordinator/machine": ("coordinator", "model/*", "protos"),
    "coordinator/profiling": ("model/machine", *PLANNED),
    "coordinator/workers/watching": ("coordinator", "protos"),
    "coordinator/cluster": ("coordinator/workers/watching", "model/machine", "protos"),
    "coordinator/workers": (
        "keeper",
        "coordinator",
        "coordinator/engine",
        "coordinator/engine/kv",
        "coordinator/machine",
        "coordinator/profiling",
        "coordinator/cluster",
        "coordinator/workers/watching",
        "model/machine",
        *PLANNED,
    ),
    "coordinator/stages": (
        "coordinator",
        "coordinator/cluster",
        "coordinator/engine",
        "coordinator/machine",
        "coordinator/profiling",
        "coordinator/workers",
        "model/machine",
        "model/packed",
        "model/planning/prediction",
        SCHEMAS,
        *PLANNED,
    ),
    "coordinator/measuring": (
        "coordinator",
        "coordinator/machine",
        "coordinator/workers",
        "model/machine",
        "model/text",
        "model/planning/prediction",
        *PLANNED,
    ),
    "coordinator/measuring/load": ("client", "coordinator/access", "protos", SCHEMAS),
    "coordinator/operations": (
        "coordinator",
        "coordinator/engine",
        "coordinator/machine",
        "coordinator/profiling",
        "coordinator/workers",
        "model/machine",
        "model/doctor",
        "model/planning/prediction",
        *PLANNED,
    ),
    "coordinator/api": (
        "coordinator",
        "coordinator/access",
        "coordinator/requests",
        "coordinator/constraints",
        "coordinator/engine",
        "coordinator/workers",
        "model/text",
        "model/chat",
        *PLANNED,
    ),
    "coordinator/api/openai": (
        "coordinator/requests",
        "coordinator/engine",
        "coordinator/api",
        "model/text",
        "model/chat",
        "protos",
    ),
    "coordinator/api/anthropic": ("coordinator/requests", "coordinator/api", "model/chat", "protos"),
    "coordinator/api/oip": ("coordinator/requests", "coordinator/api", "model/chat", "protos", OTHERS_SCHEMAS),
    "coordinator/api/http": (
        "coordinator",
        "coordinator/access",
        "coordinator/requests",
        "coordinator/engine",
        "coordinator/operations",
        "coordinator/api",
        "coordinator/api/openai",
        "coordinator/api/anthropic",
        "protos",
    ),
    "coordinator/api/grpc": (
        "coordinator",
        "coordinator/access",
        "coordinator/requests",
        "coordinator/engine",
        "coordinator/workers",
        "coordinator/operations",
        "coordinator/api",
        "coordinator/api/oip",
        "model/chat",
        SCHEMAS,
        OTHERS_SCHEMAS,
        *PLANNED,
    ),
    "coordinator/process": (
        "coordinator",
        "coordinator/access",
        "coordinator/requests",
        "coordinator/constraints",
        "coordinator/engine",
        "coordinator/hub",
        "coordinator/machine",
        "coordinator/workers",
        "coordinator/stages",
        "coordinator/operations",
        "coordinator/api",
        "coordinator/api/grpc",
        "coordinator/api/http",
        "model/chat",
        *PLANNED,
    ),
    "coordinator/commands/tables": ("coordinator/machine", "model/*", "protos", SCHEMAS),
    "coordinator/commands/screen": ("coordinator", "coordinator/commands/tables", "protos", SCHEMAS),
    "coordinator/commands/asking": (
        "client",
        "coordinator/access",
        "coordinator/commands/tables",
        "coordinator/commands/screen",
        "protos",
        SCHEMAS,
    ),
    "coordinator/commands/llama": ("protos",),
    "coordinator/commands": (
        "coordinator",
        "coordinator/access",
        "coordinator/cluster",
        "coordinator/hub",
        "coordinator/machine",
        "coordinator/process",
        "coordinator/stages",
        "coordinator/commands/tables",
        "coordinator/commands/screen",
        "coordinator/commands/asking",
        "coordinator/commands/llama",
        "model/made_up",
        "model/machine",
        SCHEMAS,
        *PLANNED,
    ),
    "coordinator/commands/configuring": (
        "coordinator",
        "coordinator/access",
        "coordinator/operations",
        "coordinator/commands",
        "coordinator/commands/screen",
        "coordinator/commands/tables",
        "protos",
    ),
    # Called by name, so that `numoe --help` imports none of it.
    "coordinator/commands/measuring": (
        "coordinator",
        "coordinator/access",
        "coordinator/machine",
        "coordinator/profiling",
        "coordinator/measuring",
        "coordinator/commands",
        "coordinator/commands/tables",
        "coordinator/commands/screen",
        SCHEMAS,
        *PLANNED,
    ),
    "coordinator/commands/measuring/load": (
        "coordinator",
        "coordinator/measuring/load",
        "coordinator/commands",
        "coordinator/commands/measuring",
        "coordinator/commands/screen",
        "protos",
    ),
}
TOP_FOLDERS = tuple(dict.fromkeys(room.split("/")[0] for room in ROOMS))


def rooms_below(room: str, rooms: Mapping[str, tuple[str, ...]] = ROOMS) -> set[str]:
    """The rooms whose modules those of `room` may import, itself included."""
    named = {below for below in rooms[room] if not below.endswith("/*")}
    folders = tuple(below.removesuffix("*") for below in rooms[room] if below.endswith("/*"))
    return {room} | named | {other for other in rooms if folders and other.startswith(folders)}


def rooms_above(room: str) -> set[str]:
    """The rooms whose modules may import those of `room`."""
    return {above for above in ROOMS if above != room and room in rooms_below(above)}


def room_of_path(path: str) -> str | None:
    """The room of a file by its path from the root, or of the test that mirrors one; None: outside of all rooms.

    model/gguf/part.py and tests/model/gguf/test_part.py are both of model/gguf.
    """
    folders = path.removeprefix("tests/").split("/")[:-1]
    for end in range(len(folders), 0, -1):
        if (room := "/".join(folders[:end])) in ROOMS:
            return room
    return None


def room_of_name(name: str) -> str | None:
    """The room of an imported name: numoe.model.gguf.part.Part is of model/gguf, numoe.v1.x of protos/numoe/v1."""
    parts = name.split(".")[1:]
    schemas = f"protos/numoe/{parts[0]}" if parts else ""
    return schemas if schemas in ROOMS else room_of_path("/".join([*parts, ""]))


def find_upward(rooms: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Every room that may import one which is not listed before it: an arrow up, or part of a circle."""
    order = {room: number for number, room in enumerate(rooms)}
    return [
        f"{room} may import {below}, which does not stand before it"
        for room in rooms
        for below in sorted(rooms_below(room, rooms) - {room})
        if order.get(below, len(order)) > order[room]
    ]
