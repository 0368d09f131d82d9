"""Every route of the HTTP door, with the role that it needs.

Where no keys are asked for, whoever reaches the address has all roles. The page's files are open: they are the same for
everybody, and ask for a key themselves. What operates is guarded against other sites (guard.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from numoe.coordinator.access.key_ring import KeyRing, asking_key
from numoe.coordinator.access.roles import Role
from numoe.coordinator.api.http.actions import Actions
from numoe.coordinator.api.http.answers import RETRY_AFTER, Answer, guarded, json_answer, refusal
from numoe.coordinator.api.http.asked import MESSAGES, Asked, refuse_at, told_at
from numoe.coordinator.api.http.entry import admitted
from numoe.coordinator.api.http.guard import JSON, why_foreign, why_refused
from numoe.coordinator.api.http.metrics import negotiate, render, render_loading
from numoe.coordinator.api.http.places import Places
from numoe.coordinator.api.http.stream import EVENT_STREAM, PartEncoder, events, whole
from numoe.coordinator.api.openai import llama_server
from numoe.coordinator.operations.operations import Operations
from numoe.coordinator.operations.snapshot import Service
from numoe.coordinator.ration import Ration
from numoe.protos.errors import Unavailable

_log = structlog.get_logger()

VIEWERS = 64  # of the stream at once: each takes a connection, and 60 kB a second while all is busy
ACTIONS = 8  # under way at once, so that bodies that never come take no more connections
FOREIGN = "FOREIGN_ORIGIN"
ANY_HEADER = "*"
READABLE = (*MESSAGES.id_headers, RETRY_AFTER)  # headers of answers, for pages of other sites that may ask
PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """One route."""

    role: Role
    method: str
    path: str
    answer: Answer


class Views:
    """What can be looked at."""

    def __init__(self, source: Callable[[], Operations], loading: Callable[[], Service], closed: asyncio.Event) -> None:
        self._source, self._loading, self._closed = source, loading, closed
        self._encoder = PartEncoder()
        self._viewers = Places("pages are open")

    async def livez(self, request: Request) -> Response:
        """200 as long as the process answers."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 if requests are taken now, else 503."""
        state: str
        try:
            state = self._source().state
        except Unavailable:
            state = self._loading().state
        return json_answer({"state": state}, 200 if state == "serving" else 503)

    async def health(self, request: Request) -> Response:
        """The same in llama-server's words."""
        try:
            state = self._source().state
        except Unavailable:
            state = None
        status, told = llama_server.health_of(state)
        return json_answer(told, status)

    async def metrics(self, request: Request) -> Response:
        """What Prometheus reads, while the model is loaded too: a service that loads is not one that is down."""
        encode, content_type = negotiate(request.headers.get("accept", ""))
        try:
            registry = await render(self._source())
        except Unavailable:
            registry = render_loading(self._loading())
        return Response(encode(registry), media_type=content_type)

    async def stream(self, request: Request) -> Response:
        """The service as it changes, see stream.py."""
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        if request.method == "HEAD":
            return Response(media_type=EVENT_STREAM, headers=headers)
        self._viewers.take(VIEWERS)
        lines = events(self._source, self._loading, self._closed, self._encoder)
        return StreamingResponse(lines, media_type=EVENT_STREAM, headers=headers)

    async def status(self, request: Request) -> Response:
        """All parts of the stream, once."""
        parts = self._encoder.parts(await self._source().snapshot())
        return Response(whole(parts), headers={"cache-control": "no-store"}, media_type=JSON)

    async def to_page(self, request: Request) -> Response:
        """The page is what a person looks for."""
        return RedirectResponse("/ops/")


def route_table(views: Views, actions: Actions, asked: Asked) -> tuple[HttpRoute, ...]:
    """All routes but the page's files, which lie below /ops/ and are open."""
    return (
        HttpRoute(Role.OPEN, "GET", "/livez", views.livez),
        HttpRoute(Role.OPEN, "GET", "/readyz", views.readyz),
        HttpRoute(Role.OPEN, "GET", "/health", views.health),
        HttpRoute(Role.OPEN, "GET", "/", views.to_page),
        *(HttpRoute(Role.INFER, *one) for one in asked.answers),
        HttpRoute(Role.OBSERVE, "GET", "/slots", asked.slots),
        HttpRoute(Role.OBSERVE, "GET", "/metrics", views.metrics),
        HttpRoute(Role.OBSERVE, "GET", "/ops/stream", views.stream),
        HttpRoute(Role.OBSERVE, "GET", "/ops/status", views.status),
        HttpRoute(Role.OPERATE, *asked.slot_actions),
        HttpRoute(Role.OPERATE, "POST", "/ops/actions/abort", actions.abort),
        HttpRoute(Role.OPERATE, "POST", "/ops/actions/rebalance", actions.rebalance),
        HttpRoute(Role.OPERATE, "POST", "/ops/actions/drain-worker", actions.drain_worker),
        HttpRoute(Role.OPERATE, "POST", "/ops/actions/drain-service", actions.drain_service),
    )


def application(table: tuple[HttpRoute, ...], keys: KeyRing, origins: Collection[str] = ()) -> Starlette:
    """The routes of the table and the page's files; `origins`: of pages elsewhere that may ask the model."""
    places = Places("actions are under way")
    routes = [_served(one, places, keys, origins) for one in table]
    page = Mount("/ops", StaticFiles(directory=PAGE, html=True))
    return Starlette(routes=[*routes, page], exception_handlers={HTTPException: _not_routed})


def misdirected(request: Request, why: str) -> Response:
    """What those are told who ask for another host."""
    return _told(request, PlainTextResponse(f"{why}\n", HTTPStatus.MISDIRECTED_REQUEST), why)


async def _not_routed(request: Request, error: Exception) -> Response:
    """What those are told who find no route, or ask it with another method."""
    assert isinstance(error, HTTPException), "it is called for these alone"
    allowed = (error.headers or {}).get("Allow", "")
    path, method = request.scope["path"][:100], request.method[:20]
    missing = f"found the path {path!r}, expected one of this service"
    why = f"found the method {method!r}, expected {allowed}" if allowed else missing
    response = _told(request, PlainTextResponse(error.detail, error.status_code), why)
    response.headers.update(error.headers or {})
    return response


def _told(request: Request, refusal: Response, why: str) -> Response:
    return told_at(request, refusal, HTTPStatus(refusal.status_code).name, why)


def _served(route: HttpRoute, places: Places, keys: KeyRing, origins: Collection[str]) -> Route:
    refuse = refuse_at(route.path)
    match route.role:
        case Role.OPERATE:
            answer = _operating(route, places)
        case Role.INFER:
            answer = _asking(route, origins)
        case _:
            answer = guarded(route.answer, refuse)
    answer = admitted(route.role, route.path, keys, answer, refuse)
    if route.role is not Role.INFER or not origins:
        return Route(route.path, answer, methods=[route.method])
    cors = Middleware(CORSMiddleware, origins, [route.method], [ANY_HEADER], expose_headers=READABLE)
    return Route(route.path, answer, methods=[route.method, "OPTIONS"], middleware=[cors])


def _asking(route: HttpRoute, origins: Collection[str]) -> Answer:
    async def ask(request: Request) -> Response:
        why = why_foreign(request.headers, origins, request.method)
        return _foreign(request, why) if why else await route.answer(request)

    return ask


def _foreign(request: Request, why: str) -> Response:
    return told_at(request, refusal(403, FOREIGN, why), FOREIGN, why)


def _operating(route: HttpRoute, places: Places) -> Answer:
    async def take_place(request: Request) -> Response:
        places.take(ACTIONS)
        return await route.answer(request)

    answer, ration = guarded(take_place, refuse_at(route.path)), Ration()

    async def operate(request: Request) -> Response:
        why = why_refused(request.headers)
        told = _foreign(request, why) if why else await answer(request)
        left_out = ration.facts(told.status_code)
        if left_out is not None:
            client = request.client and f"{request.client.host}:{request.client.port}"
            facts = {"path": route.path, "status": told.status_code, "client": client, "refused": why or None}
            key = {"key": asking_key()} if asking_key() else {}
            _log.info("action", **facts, **key, **left_out)
        return told

    return operate
