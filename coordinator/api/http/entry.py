"""Who is let in over HTTP: whoever shows a key with the role that a route needs, before anything else is looked at."""

from __future__ import annotations

import structlog
from starlette.requests import Request
from starlette.responses import Response

from numoe.coordinator.access.key_ring import KeyRing
from numoe.coordinator.access.roles import Role
from numoe.coordinator.api.failures import describe_failure
from numoe.coordinator.api.http.answers import Answer, Refuse, call_id
from numoe.coordinator.ration import Ration
from numoe.protos.errors import RequestError

_log = structlog.get_logger()


def admitted(role: Role, path: str, keys: KeyRing, answer: Answer, refuse: Refuse) -> Answer:
    """The same answer for those who are let in; the others are told why not, and the log their number."""
    ration = Ration()

    async def told(request: Request) -> Response:
        try:
            keys.admit(role, request.headers.getlist)
        except RequestError as error:
            refused = refuse(describe_failure(error, call_id(request)))
            left_out = ration.facts(refused.status_code)
            if left_out is not None:
                client = request.client and f"{request.client.host}:{request.client.port}"
                _log.info("route_refused", path=path, status=refused.status_code, client=client, **left_out)
            return refused
        return await answer(request)

    return told
