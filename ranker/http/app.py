"""The ASGI app of a ranker: what is served where, and who may call it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Annotated, Any

import msgspec
from litestar import Litestar, MediaType, Request, Response, delete, get
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.params import Parameter
from prometheus_client import CONTENT_TYPE_LATEST

from ranker.explain.explainer import K_MAX
from ranker.http.event_batch import EventList, EventsAnswer
from ranker.http.events import EventsEndpoint
from ranker.http.explaining import ExplainEndpoint
from ranker.http.gate import Gate
from ranker.http.idempotency import HEADER, KEY_PATTERN
from ranker.http.litestar_problems import framework_response, problem_response
from ranker.http.openapi import complete_document, openapi_config, post_operation
from ranker.http.problems import INVALID, NOT_FOUND, HttpProblem
from ranker.http.ranking import RankEndpoint
from ranker.http.routes import EVENTS, EXPLAIN, ITEMS, LIVEZ, METRICS, MODELS, RANK, READYZ, USERS, id_of
from ranker.http.tokens import Scope, Tokens, require
from stream.events.named_explanations import Explanation
from stream.events.named_replies import RankAnswer
from stream.events.named_requests import NamedRequest
from stream.events.personal_data import PLACES, Place
from stream.events.types import ID_BYTES_MAX, Item, Value
from stream.runtime.health import Check
from stream.runtime.metrics import exported


class ModelInfo(msgspec.Struct, frozen=True):
    """A model that this ranker serves. `version` 0: none yet, items are ranked by popularity.

    `staleness_ms` is the age of the newest label that the version has learned.
    """

    model: str
    version: int
    live_since_ms: int
    staleness_ms: int


class ItemInfo(msgspec.Struct, frozen=True):
    """What the ranker knows of an item."""

    item: str
    title: str
    popularity: float
    attributes: dict[str, Value]


class ErasureInfo(msgspec.Struct, frozen=True):
    """The receipt of an erasure: what is erased from before `time_ms`, where. Kafka has it; the rest follows."""

    user: str
    time_ms: int
    places: tuple[Place, ...] = PLACES


@dataclass(frozen=True)
class Served:
    """What the app serves. `models` and `item` are called in the event loop: they don't wait."""

    rank: RankEndpoint
    events: EventsEndpoint
    explain: ExplainEndpoint
    models: Callable[[], list[ModelInfo]]
    item: Callable[[str], Item | None]
    drop_profile: Callable[[str], None]
    ready: Check
    live: Check


def http_app(served: Served, tokens: Tokens, hosts: Iterable[str] = ()) -> Gate:
    """The app of one ranker. `hosts`: names by which it may be called, beside its address."""
    routed = Litestar(
        [*_reads(served, tokens), _erasure(served, tokens), *_health(served, tokens)],
        openapi_config=openapi_config(version("thalweg")),
        exception_handlers={HttpProblem: problem_response, HTTPException: framework_response},
        logging_config=None,
        debug=False,
        on_shutdown=[served.events.close, served.explain.close],
    )
    rank, schemas = post_operation("Rank items for a user", NamedRequest, {200: ("the list", RankAnswer)}, {})
    del schemas[NamedRequest.__name__]["properties"]["reply_to"]  # for requests over Kafka
    events = post_operation(
        "Write events",
        EventList,
        {200: ("all of them are written", EventsAnswer), 207: ("some are not, see `results`", EventsAnswer)},
        {HEADER: ("names the call, so that it can be sent again: see docs/http.md", KEY_PATTERN)},
    )
    complete_document(routed, {RANK: (rank, schemas), EVENTS: events})
    posts: Mapping[str, tuple[tuple[Scope, ...], Any]] = {
        RANK: (("rank",), served.rank),
        EVENTS: (("events", "catalogue"), served.events),
    }
    return Gate(routed, posts, tokens, hosts)


def _reads(served: Served, tokens: Tokens) -> list[Any]:
    @get(MODELS, guards=[partial(_guard, tokens, "rank")], sync_to_thread=False, summary="Models served here")
    def models() -> list[ModelInfo]:
        return served.models()

    @get(ITEMS + "{item:path}", guards=[partial(_guard, tokens, "catalogue")], sync_to_thread=False, summary="An item")
    def one_item(request: Request[Any, Any, Any], item: Annotated[str, Parameter(description="its id")]) -> ItemInfo:
        name = id_of(request.scope["raw_path"], ITEMS)  # `item` has lost slashes at its ends
        found = served.item(name)
        if found is None:
            raise HttpProblem(
                NOT_FOUND,
                f"no item {name[:100]!r} is described",
                remedy="write it: POST /v1/events, or the topic items",
            )
        return ItemInfo(found.item, found.title, found.popularity, found.attributes)

    @get(EXPLAIN, guards=[partial(_guard, tokens, "rank")], summary="Why a user's page is as it is")
    async def explain(
        request: Request[Any, Any, Any],
        user: Annotated[str, Parameter(min_length=1, max_length=ID_BYTES_MAX, description="the user's id")],
        item: Annotated[
            str, Parameter(max_length=ID_BYTES_MAX, description="explain it alone, on the page or not")
        ] = "",
        k: Annotated[int, Parameter(ge=1, le=K_MAX, description="items of the page")] = 10,
        model: Annotated[str, Parameter(max_length=ID_BYTES_MAX, description="empty: the ranker's first one")] = "",
    ) -> Explanation:
        """Context columns are given as `context.COLUMN=value`, rules as `rule=NAME` or as JSON, each several times."""
        return await served.explain(request.query_params.multi_items())

    return [models, one_item, explain]


def _erasure(served: Served, tokens: Tokens) -> Any:
    @delete(
        USERS + "{user:path}",
        guards=[partial(_guard, tokens, "admin")],
        status_code=202,
        summary="Erase a user",
        description="Erases what is known of the user until now. See docs/privacy.md.",
    )
    async def erase(
        request: Request[Any, Any, Any], user: Annotated[str, Parameter(description="its id")]
    ) -> ErasureInfo:
        if request.scope["query_string"]:
            raise HttpProblem(INVALID, "there are no parameters: in an id, write ? as %3F")
        event = await served.events.erase(id_of(request.scope["raw_path"], USERS))
        served.drop_profile(event.user)
        return ErasureInfo(event.user, event.time_ms)

    return erase


def _health(served: Served, tokens: Tokens) -> list[Any]:
    @get(LIVEZ, sync_to_thread=False, summary="Whether the ranker runs", media_type=MediaType.TEXT)
    def livez() -> Response[str]:
        return _checked(served.live)

    @get(READYZ, sync_to_thread=False, summary="Whether the ranker answers requests", media_type=MediaType.TEXT)
    def readyz() -> Response[str]:
        return _checked(served.ready)

    @get(
        METRICS,
        guards=[partial(_guard, tokens, "admin")],
        sync_to_thread=True,  # it takes longer than a request
        summary="Prometheus' metrics",
        media_type=MediaType.TEXT,
    )
    def metrics() -> Response[bytes]:
        return Response(exported(), media_type=CONTENT_TYPE_LATEST)

    return [livez, readyz, metrics]


def _checked(check: Check) -> Response[str]:
    is_ok, message = check()
    return Response(f"{message}\n", status_code=200 if is_ok else 503, media_type=MediaType.TEXT)


def _guard(tokens: Tokens, scope: Scope, connection: Any, handler: BaseRouteHandler) -> None:
    headers = dict(connection.scope["headers"])
    require(tokens.caller(headers.get(b"authorization")), scope)
