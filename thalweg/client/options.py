"""Options of clients and of their calls."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from stream.events.types import Value


class ClientOptions(TypedDict, total=False):
    """Of a client.

    `token`: a bearer token (docs/http.md). `model`: where rankers serve several. `deadline_ms` (1,000) and
    `send_timeout_s` (10): of a call with all its tries, unless it names its own. `connect_s` (0.25): of one connection.
    `now_s` and `uniform`: a monotonic clock, and chance (`random.uniform`).
    """

    token: str
    model: str
    deadline_ms: int
    send_timeout_s: float
    connect_s: float
    now_s: Callable[[], float]
    uniform: Callable[[float, float], float]


class RankOptions(TypedDict, total=False):
    """Of a ranking request: see RankRequest in `stream/events/types.py`.

    `k` (10): items to return. `candidates`: items to rank; without any the ranker finds some. `deadline_ms`: how old
    the answer may be, with all tries. `request_id`: of your own, unique. `history` and `attributes`: the user's, where
    the ranker shouldn't look them up. `rules`: names of the spec's rules, or rules of your own (docs/rules.md).
    """

    k: int
    candidates: Sequence[str] | None
    context: Mapping[str, str | float]
    deadline_ms: int
    time_ms: int
    request_id: str
    history: Sequence[str] | None
    attributes: Mapping[str, Value] | None
    model: str
    rules: Sequence[str | Mapping[str, Any]]


class SendOptions(TypedDict, total=False):
    """Of a list of events: `timeout_s`, of the call with all its tries; `key`, an idempotency key of your own.

    The same list with the same key may be sent again, even by another process: it is written once.
    """

    key: str
    timeout_s: float
