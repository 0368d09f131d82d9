"""What may become of a client while it is answered: its body comes slowly or is too long, it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from numoe.protos.errors import InvalidRequest, RequestCancelled

Result = TypeVar("Result")

LONG_BYTES = 1 << 20
LENGTH = "content-length"  # the field that is at fault where a body is too long


def ignore_length() -> None:
    """A body may be as long as any."""


async def receive_body(
    request: Request, most_bytes: int, seconds: float, when_long: Callable[[], None] = ignore_length
) -> bytes:
    """A body; `when_long` is called once it has more than LONG_BYTES, and may raise.

    Raises InvalidRequest where it is longer or takes longer, RequestCancelled where the client is gone.
    """
    body, is_long = bytearray(), False
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > most_bytes:
                    raise InvalidRequest(LENGTH, f"the body takes more than {most_bytes} bytes")
                if not is_long and len(body) > LONG_BYTES:
                    is_long = True
                    when_long()
    except TimeoutError as error:
        raise InvalidRequest("body", f"did not come within {seconds:g} s") from error
    except ClientDisconnect as error:
        raise RequestCancelled("the client went away before its body was there") from error
    return bytes(body)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Do some work for a client whose body was read; once it is gone, the work is cancelled.

    Raises RequestCancelled then, and what the work raises.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise RequestCancelled("the client went away before it was answered")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
