"""`GET /v1/explain`: why a user's page is as it is, worked out beside ranking, one explanation at a time."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import msgspec

from ranker.explain.explainer import Explainer, ItemOf
from ranker.http.problems import INVALID, NOT_READY, SHED, UNKNOWN_ITEM, UNKNOWN_MODEL, HttpProblem
from ranker.serving.answering import Answerer
from ranker.serving.served_model import ServedModel
from stream.events.named_explanations import Explanation
from stream.events.named_requests import NamedRequest
from stream.events.types import RankRequest
from stream.history.profiles import UserProfile
from stream.runtime.errors import BadEvent

WAITING_MAX: Final = 4  # explanations asked for at once, the one being worked out among them
ONCE: Final = ("user", "item", "k", "model")  # parameters that have one value
CONTEXT: Final = "context."
RULE: Final = "rule"


class ExplainEndpoint:
    """Explains pages. Ranking goes on: a thread of its own explains, and the event loop waits for it.

    `item_of`: items by name. `ready`: whether the ranker ranks, and its state.
    """

    def __init__(
        self,
        answerer: Answerer,
        item_of: ItemOf,
        *,
        ready: Callable[[], tuple[bool, str]],
        now_ms: Callable[[], int],
    ) -> None:
        self._answerer, self._item_of, self._ready, self._now_ms = answerer, item_of, ready, now_ms
        self._explainers: dict[str, Explainer] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self._waiting = 0

    async def __call__(self, query: Iterable[tuple[str, str]]) -> Explanation:
        """The explanation that a query's parameters ask for. Raises HttpProblem."""
        is_ready, state = self._ready()
        if not is_ready:
            raise HttpProblem(NOT_READY, state, retry_after_s=1)
        request, item = _decode(query)
        model = self._answerer.model(request.model)
        if model is None:
            raise HttpProblem(UNKNOWN_MODEL, f"no model {request.model[:100]!r} is served here")
        if self._waiting >= WAITING_MAX:
            raise HttpProblem(SHED, f"{WAITING_MAX} explanations are being worked out", retry_after_s=1)
        self._waiting += 1
        try:
            profiles = await self._answerer.begin_profiles([request]).arrived()
            work = partial(self._explain, model, request, item, profiles[request.user])
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except BadEvent as bad:
            raise HttpProblem(INVALID, str(bad)) from None
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _explain(self, model: ServedModel, request: RankRequest, item: str, profile: UserProfile) -> Explanation:
        """In the thread that explains. Raises HttpProblem, BadEvent."""
        explainer = self._explainers.get(model.name)
        if explainer is None:
            explainer = Explainer(model.ranker, model.watcher, self._item_of, self._now_ms)
            self._explainers[model.name] = explainer
        if model.watcher.served is None:
            raise HttpProblem(
                NOT_READY, f"no version of {model.name} is served yet: pages are ordered by static popularity",
                remedy="start a learner, and ask again once it has published", retry_after_s=1,
            )  # fmt: skip
        if item and not explainer.knows(item):
            raise HttpProblem(
                UNKNOWN_ITEM, f"no item {item[:100]!r} is described, and no page that was learned has shown it"
            )
        return explainer.explain(request, profile, model.name, item)


def _rule(text: str) -> Any:
    """A rule's name, or a rule of the request's own, as JSON. Raises HttpProblem."""
    if not text.startswith("{"):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as bad:
        raise HttpProblem(INVALID, f"rule={text[:100]!r} isn't JSON: {bad}") from None


def _decode(query: Iterable[tuple[str, str]]) -> tuple[RankRequest, str]:
    """The request for the page, and the item to explain. Raises HttpProblem."""
    fields: dict[str, Any] = {"request_id": "explain", "context": {}, "rules": []}
    for name, value in query:
        if name.startswith(CONTEXT) and len(name) > len(CONTEXT):
            fields["context"][name.removeprefix(CONTEXT)] = value
        elif name == RULE:
            fields["rules"].append(_rule(value))
        elif name in ONCE and name not in fields:
            fields[name] = value
        else:
            what = "given twice" if name in ONCE else "no parameter"
            raise HttpProblem(
                INVALID, f"{name[:100]!r} is {what}",
                remedy="ask for user, item, k, model, and several times for context.COLUMN=value and rule=NAME",
            )  # fmt: skip
    item = fields.pop("item", "")
    try:
        named = msgspec.convert(fields, NamedRequest, strict=False)
        return named.positional(), item
    except (msgspec.ValidationError, BadEvent) as bad:
        raise HttpProblem(INVALID, str(bad)) from None
