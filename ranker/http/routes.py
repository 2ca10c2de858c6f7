"""The paths of the HTTP server."""

from typing import Final
from urllib.parse import unquote_to_bytes

from ranker.http.problems import INVALID, NOT_FOUND, HttpProblem

RANK: Final = "/v1/rank"
EVENTS: Final = "/v1/events"
EXPLAIN: Final = "/v1/explain"
MODELS: Final = "/v1/models"
ITEMS: Final = "/v1/items/"
USERS: Final = "/v1/users/"
LIVEZ: Final = "/livez"
READYZ: Final = "/readyz"
METRICS: Final = "/metrics"
DOCS: Final = "/docs"
OTHER: Final = "other"

_EXACT: Final = frozenset((RANK, EVENTS, EXPLAIN, MODELS, LIVEZ, READYZ, METRICS))


def route_of(path: str) -> str:
    """The route of a path, for metrics: there are few, whatever is asked for.

    >>> [route_of(path) for path in ("/v1/rank", "/v1/items/a/b", "/docs/openapi.json", "/wp-login.php")]
    ['/v1/rank', '/v1/items/{id}', '/docs', 'other']
    """
    if path in _EXACT:
        return path
    for prefix in (ITEMS, USERS):
        if path.startswith(prefix):
            return prefix + "{id}"
    return DOCS if path == DOCS or path.startswith(DOCS + "/") else OTHER


def id_of(raw_path: bytes, prefix: str) -> str:
    """The id behind the prefix, to the byte: the router drops slashes, and replaces what isn't UTF-8.

    Raises HttpProblem.
    """
    try:
        path = unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        raise HttpProblem(INVALID, "the id in the path isn't UTF-8") from None
    if not path.startswith(prefix):
        raise HttpProblem(NOT_FOUND, path[:100])
    return path.removeprefix(prefix)
