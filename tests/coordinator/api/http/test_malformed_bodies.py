"""Whatever a body is, it is answered in time, never by a failure of ours, and the service goes on serving."""

from __future__ import annotations

import json
import random
import time

import pytest

from tests.coordinator.api.grpc.grpc_serving import fake_workers, running_server
from tests.coordinator.api.http.http_client import Kept
from tests.coordinator.api.http.malformed_bodies import ACTIONS, VALID, malformed
from tests.coordinator.tiny_tokenizer import TOKENIZER

BODIES = 400  # to each path; `python -m tests.system.endurance malformed` sends more, to a real service
SECONDS = 2.0  # for one answer, on a machine that does other things
REFUSED = {400, 404, 409}  # 409: nothing can be moved


@pytest.mark.parametrize("path", [*VALID, *ACTIONS])
async def test_malformed_bodies_never_are_a_failure_of_ours(path: str) -> None:
    chosen = random.Random(path)
    valid = (VALID | ACTIONS)[path]
    statuses = set()
    async with running_server(fake_workers(range(TOKENIZER.vocabulary))) as running:
        client, told = Kept(running.ready.http), {"content_type": "application/json"}
        assert (await client.ask(path, "POST", json.dumps(valid).encode(), **told)).status in {200, *REFUSED}
        for _ in range(BODIES):
            body, began = malformed(valid, chosen), time.monotonic()
            reply = await client.ask(path, "POST", body, **told)
            assert time.monotonic() - began < SECONDS, body
            assert reply.status in {200, *REFUSED}, (reply.status, body[:9000])
            assert b"incident" not in reply.body
            statuses.add(reply.status)
        assert (await client.ask("/v1/models")).status == 200
        client.close()
    assert 400 in statuses
    assert path in ACTIONS or 200 in statuses
