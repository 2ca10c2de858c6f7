"""From a request and its arrival to its reply, whatever brought it: Kafka and HTTP answer alike.

Age counts from `arrived_ms`, the wall clock of the log's append or of the request's arrival. A request never ends the
service: what can't be answered has a reply with an `error` (what, why, remedy) and its `kind`.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ranker import metrics
from ranker.ranking.rank import NO_USER
from ranker.serving.profile_reader import ProfileRead, ProfileReader
from ranker.serving.served_model import ServedModel
from stream.events.request_parts import RequestHead
from stream.events.types import DEADLINE_MS, EXPIRED, FAILED, INVALID, SHED, UNKNOWN_MODEL, RankReply, RankRequest
from stream.features.new_values import NewValues
from stream.runtime.errors import BadEvent

MODELS_NAMED: Final = 10  # in an error's text

log = logging.getLogger(__name__)


def deadline_of(deadline_ms: int) -> int:
    """The budget of a request in ms: its own, else the default.

    >>> deadline_of(0), deadline_of(50)
    (1000, 50)
    """
    return deadline_ms or DEADLINE_MS


Asked = RankRequest | RequestHead


def refusal(request: Asked | RankReply, kind: str, error: str) -> RankReply:
    """A reply without a list, and the reason."""
    return RankReply(request.request_id, request.user, [], [], 0, error=error, time_ms=request.time_ms, kind=kind)


def expired(request: Asked, age_ms: float) -> RankReply:
    """The reply to a request that is older than its deadline."""
    return refusal(
        request, EXPIRED,
        f"the request is {age_ms:.0f} ms old and had {deadline_of(request.deadline_ms)} ms: it isn't ranked; raise "
        "deadline_ms, or start more rankers",
    )  # fmt: skip


def shed(request: Asked, queue_ms: float) -> RankReply:
    """The reply to a request that would wait for too long."""
    return refusal(
        request, SHED,
        f"{queue_ms:.0f} ms of requests wait before this one: it isn't ranked; ask again later, or start more rankers",
    )  # fmt: skip


class Answerer:
    """Answers requests by the model that each names, else by the first of `models`. Threads may share it.

    `now_ms` is the clock by which requests arrive. `values` notes the values of requests, if they are to be named.
    """

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        profiles: ProfileReader,
        now_ms: Callable[[], int],
        values: NewValues | None = None,
    ) -> None:
        assert models, "a ranker serves at least one model"
        self._models, self._profiles, self._now_ms, self._values = models, profiles, now_ms, values
        self._default = next(iter(models))

    def model(self, name: str) -> ServedModel | None:
        """The model of this name (empty: the first), None when it isn't served here."""
        return self._models.get(name or self._default)

    def left_ms(self, request: Asked, arrived_ms: int) -> float:
        """What is left of the request's deadline; 0 or less: it has expired. A clock behind the log's adds nothing."""
        return deadline_of(request.deadline_ms) - max(0, self._now_ms() - arrived_ms)

    def begin_profiles(self, requests: Sequence[RankRequest]) -> ProfileRead:
        """Start reading the profiles of the users whose requests lack history or attributes, in one look-up."""
        return self._profiles.begin([r.user for r in requests if r.history is None or r.attributes is None])

    def answer(self, request: RankRequest, arrived_ms: int) -> RankReply:
        """The reply to one request, whose profile is read now if it lacks something."""
        is_ranked = self.model(request.model) is not None and self.left_ms(request, arrived_ms) > 0
        return self.answer_with(request, arrived_ms, self.begin_profiles([request] if is_ranked else []))

    def answer_with(self, request: RankRequest, arrived_ms: int, profiles: ProfileRead) -> RankReply:
        """The reply to one request; `profiles` from `begin_profiles`."""
        reply = self._reply(request, arrived_ms, profiles)
        self.observe(reply, arrived_ms)
        return reply

    def observe(self, reply: RankReply, arrived_ms: int) -> None:
        """Count a reply that is ready, also one that was made without `answer`: of a request that was shed."""
        now_ms = self._now_ms()
        metrics.REPLIES.inc()
        metrics.ANSWER.observe(max(0, now_ms - arrived_ms) / 1e3)
        for note in reply.notes:
            metrics.INCOMPLETE.labels(note).inc()
        for source, items in Counter(reply.sources).items():
            metrics.SOURCES.labels(source).inc(items)
        if reply.error:
            metrics.ERRORS.labels(reply.kind).inc()

    def _reply(self, request: RankRequest, arrived_ms: int, profiles: ProfileRead) -> RankReply:
        started_s = time.monotonic()
        model = self.model(request.model)
        if model is None:
            named = ", ".join(list(self._models)[:MODELS_NAMED])
            return refusal(request, UNKNOWN_MODEL, f"no model {request.model[:100]!r} is served here, but {named}")
        left_ms = self.left_ms(request, arrived_ms)
        if left_ms <= 0:
            return expired(request, deadline_of(request.deadline_ms) - left_ms)
        try:
            reply = model.ranker.answer(
                request, lambda: profiles.result()[request.user], started_s, started_s + left_ms / 1e3
            )
        except BadEvent as error:
            return refusal(request, INVALID, str(error))
        except Exception as error:
            log.exception("request %s can't be answered", request.request_id)
            return refusal(request, FAILED, f"the ranker failed ({error!r}): its log says where")
        metrics.LATENCY.observe(time.monotonic() - started_s)
        if reply.version and self._values is not None and (served := model.watcher.served) is not None:
            user = request.user if NO_USER in reply.notes else ""
            self._values.note(served.version.plan.layout, request.context, request.attributes, user)
        if reply.version:
            metrics.STALENESS.labels(model.name).set(reply.staleness_ms / 1e3)
            model.watcher.freshness.replied(reply.version, self._now_ms())
        return reply
