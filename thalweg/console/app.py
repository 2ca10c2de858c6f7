"""The ASGI app of the console: the page, its stream of events, and what a person asks for or decides."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody, Parameter
from litestar.response import Stream
from msgspec import Meta

from ranker.http.gate import Gate
from ranker.http.litestar_problems import framework_response, problem_response
from ranker.http.problems import INVALID, NOT_FOUND, SHED, HttpProblem, ProblemKind
from ranker.http.routes import id_of
from ranker.http.tokens import Tokens, require
from stream.events.types import ID_BYTES_MAX
from stream.runtime.errors import BadSnapshot, ThalwegError
from thalweg.client.errors import ClientError
from thalweg.console.board import PAGES_MAX, Board
from thalweg.console.guard import App, same_origin, with_headers

ASSETS: Final = Path(__file__).parent / "assets"
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
BODY_BYTES_MAX: Final = 16 * 1024
CONTEXT: Final = "context."
USERS: Final = "/api/users/"

UNKNOWN_VERSION: Final = ProblemKind(
    "unknown_version", 404, "The version can't be served", "choose another one: of older ones not all are kept"
)
UNAVAILABLE: Final = ProblemKind(
    "unavailable", 503, "What the console asks doesn't answer", "look at the rooms, then try again"
)
FAILED: Final = ProblemKind("failed", 500, "The console failed", "its log says where; reload the page")

log = logging.getLogger(__name__)

Id = Annotated[str, Meta(min_length=1, max_length=ID_BYTES_MAX)]


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Serve this version; 0: the newest again."""

    version: Annotated[int, Meta(ge=0, lt=2**53)]


class InstallOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Let a user install an item of their page."""

    user: Id
    item: Id
    k: Annotated[int, Meta(ge=1, le=50)] = 10
    context: Annotated[dict[str, str], Meta(max_length=50)] = {}


@dataclass(frozen=True)
class Served:
    """What the app serves. All but `board` may wait: they run in threads. `install` None: this is no demo."""

    board: Board
    user_page: Callable[[str, int, Mapping[str, str]], dict[str, Any]]
    recent_users: Callable[[], list[str]]
    dead_letters: Callable[[], list[dict[str, Any]]]
    pin: Callable[[int], dict[str, int]]
    roll_back: Callable[[], dict[str, int]]
    install: Callable[[str, str, int, Mapping[str, str]], dict[str, Any]] | None = None


def console_app(served: Served, tokens: Tokens, hosts: Iterable[str] = ()) -> App:
    """The app. `hosts`: names by which it may be called, beside its address."""
    routed = Litestar(
        [*_assets(), *_reads(served), *_decisions(served, tokens)],
        openapi_config=None,
        exception_handlers={
            HttpProblem: problem_response,
            ThalwegError: _our_problem,
            HTTPException: framework_response,
            RecursionError: _too_deep,
            Exception: _failure,
        },
        request_max_body_size=BODY_BYTES_MAX,
        logging_config=None,
        debug=False,
    )
    return with_headers(Gate(same_origin(routed), {}, tokens, hosts))


def _assets() -> list[Any]:
    """A route for each file of the page, read once."""
    return [_asset("/" if file.name == "index.html" else f"/assets/{file.name}", file) for file in ASSETS.iterdir()]


def _asset(path: str, file: Path) -> Any:
    body, media_type = file.read_bytes(), TYPES[file.suffix]

    @get(path, name=file.name, sync_to_thread=False)
    def asset() -> Response[bytes]:
        return Response(body, media_type=media_type, headers={"cache-control": "no-cache"})

    return asset


def _reads(served: Served) -> list[Any]:
    @get("/api/stream", sync_to_thread=False)
    def stream() -> Stream:
        if served.board.is_full:
            raise HttpProblem(SHED, f"{PAGES_MAX} pages are open", remedy="close some of them", retry_after_s=5)
        return Stream(_watch(served.board), media_type="text/event-stream", headers={"cache-control": "no-store"})

    @get("/api/users", sync_to_thread=True)
    def recent_users() -> Response[list[str]]:
        return _answer(served.recent_users())

    @get(USERS + "{user:path}", sync_to_thread=True)
    def user_page(
        request: Request[Any, Any, Any], user: FromPath[str], k: Annotated[int, Parameter(ge=1, le=50)] = 10
    ) -> Response[dict[str, Any]]:
        query = request.query_params.multi_items()
        context = {key.removeprefix(CONTEXT): value for key, value in query if key.startswith(CONTEXT)}
        return _answer(served.user_page(id_of(request.scope["raw_path"], USERS), k, context))

    @get("/api/dead-letters", sync_to_thread=True)
    def dead_letters() -> Response[list[dict[str, Any]]]:
        return _answer(served.dead_letters())

    @get(["/livez", "/readyz"], sync_to_thread=False, media_type=MediaType.TEXT)
    def ready() -> str:
        return "ok\n"

    return [stream, recent_users, user_page, dead_letters, ready]


def _decisions(served: Served, tokens: Tokens) -> list[Any]:
    admin = [partial(_require_admin, tokens)]

    @post("/api/versions/pin", guards=admin, status_code=200, sync_to_thread=True)
    def pin(data: JSONBody[Pin]) -> Response[dict[str, int]]:
        found = served.pin(data.version)
        log.warning("pinned from the console (0: none): %s", found)
        return _answer(found)

    @post("/api/versions/roll-back", guards=admin, status_code=200, sync_to_thread=True)
    def roll_back() -> Response[dict[str, int]]:
        found = served.roll_back()
        log.warning("rolled back from the console: %s", found)
        return _answer(found)

    @post("/api/install", status_code=200, sync_to_thread=True)
    def install(data: JSONBody[InstallOrder]) -> Response[dict[str, Any]]:
        if served.install is None:
            raise HttpProblem(NOT_FOUND, "installs are made in demo mode only", remedy="thalweg console --demo")
        return _answer(served.install(data.user, data.item, data.k, data.context))

    return [pin, roll_back, install]


async def _watch(board: Board) -> AsyncGenerator[bytes, None]:
    async for frame in board.watch():
        yield frame


def _answer(value: Any) -> Response[Any]:
    return Response(value, headers={"cache-control": "no-store"})


def _require_admin(tokens: Tokens, connection: Any, handler: BaseRouteHandler) -> None:
    headers = dict(connection.scope["headers"])
    require(tokens.caller(headers.get(b"authorization")), "admin")


def _our_problem(request: Request[Any, Any, Any], error: ThalwegError) -> Response[bytes]:
    if isinstance(error, ClientError):  # a ranker's own words
        kind = {400: INVALID, 404: NOT_FOUND}.get(error.status, UNAVAILABLE)
        return problem_response(request, HttpProblem(kind, f"{error.what}: {error.why}", remedy=error.remedy))
    kind = UNKNOWN_VERSION if isinstance(error, BadSnapshot) else UNAVAILABLE
    return problem_response(request, HttpProblem(kind, str(error)))


def _too_deep(request: Request[Any, Any, Any], _: Exception) -> Response[bytes]:
    return problem_response(request, HttpProblem(INVALID, "its JSON is nested too deeply"))


def _failure(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("a request to %s failed", request.scope["path"][:100], exc_info=error)
    return problem_response(request, HttpProblem(FAILED, type(error).__name__))
