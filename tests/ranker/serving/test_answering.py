"""A request and its arrival in, a reply out: whatever is wrong with a request, it has a reply that says so."""

from collections.abc import Callable, Iterator, Sequence

import pytest
from prometheus_client import REGISTRY

from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.serving.answering import Answerer, shed
from ranker.serving.profile_reader import ProfileReader
from ranker.serving.served_model import ServedModel
from stream.events.types import RankReply, RankRequest
from stream.history.profiles import UserProfile
from stream.runtime.errors import BadEvent
from stream.snapshots.memory_store import MemoryStore
from tests.support.random_models import items


class Clock:
    """A wall clock that the test sets, ms."""

    now_ms = 10_000

    def __call__(self) -> int:
        """The time."""
        return self.now_ms


class Recording(Ranker):
    """Remembers what it was asked, and fails where the test wants."""

    failure: Exception | None = None

    def answer(
        self,
        request: RankRequest,
        profile: Callable[[], UserProfile],
        read_s: float,
        deadline_s: float | None = None,
    ) -> RankReply:
        """See Ranker."""
        history = profile().history if request.history is None else request.history
        self.asked = [*getattr(self, "asked", []), (request.request_id, history)]
        self.left_ms = None if deadline_s is None else round((deadline_s - read_s) * 1e3, 6)
        if self.failure:
            raise self.failure
        return super().answer(request, profile, read_s, deadline_s)


class Bench:
    """An answerer of two models without versions, whose histories name the user."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.scorer = Scorer(1)
        self.looked_up: list[list[str]] = []
        self.rankers: dict[str, Recording] = {}
        models = {name: self._model(name) for name in ("first", "second")}
        self.answerer = Answerer(models, ProfileReader(self._read, patience_s=20), self.clock)

    def _model(self, name: str) -> ServedModel:
        cache = EntityCache()
        for item in items(30):
            cache.put(item.item, item)
        watcher = VersionWatcher(MemoryStore(name), name, cache, self.clock)
        self.rankers[name] = Recording(cache, watcher, self.scorer, self.clock)
        return ServedModel(name, watcher, self.rankers[name])

    def _read(self, users: Sequence[str]) -> dict[str, UserProfile]:
        self.looked_up.append(list(users))
        return {user: UserProfile([f"of-{user}"], {}) for user in users}

    def asked(self) -> dict[str, list[tuple[str, Sequence[str] | None]]]:
        """What each model's ranker was asked."""
        return {name: getattr(ranker, "asked", []) for name, ranker in self.rankers.items()}


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A fresh answerer."""
    made = Bench()
    yield made
    made.scorer.close()


def test_the_model_that_a_request_names_answers(bench: Bench) -> None:
    """The first one where it names none."""
    for request_id, model in (("1", ""), ("2", "second"), ("3", "first")):
        assert bench.answerer.answer(RankRequest(request_id, "u", model=model), 10_000).items
    assert bench.asked() == {"first": [("1", ["of-u"]), ("3", ["of-u"])], "second": [("2", ["of-u"])]}


def test_shown_items_are_counted_by_their_source(bench: Bench) -> None:
    """One that the request named has no source and isn't counted; what was retrieved is, by what retrieved it."""

    def shown() -> float:
        return REGISTRY.get_sample_value("thalweg_ranker_source_items_total", {"source": "popular"}) or 0.0

    before = shown()
    assert len(bench.answerer.answer(RankRequest("1", "u", k=3), 10_000).items) == 3
    assert shown() == before + 3
    bench.answerer.answer(RankRequest("2", "u", candidates=["i1"]), 10_000)
    assert shown() == before + 3


def test_an_unknown_model_has_an_error(bench: Bench) -> None:
    """It names the models that are served; nothing is looked up or ranked for it."""
    reply = bench.answerer.answer(RankRequest("1", "u", model="m"), 10_000)
    assert (reply.request_id, reply.kind, reply.items) == ("1", "unknown_model", [])
    assert "'m'" in reply.error
    assert "first, second" in reply.error
    assert (bench.looked_up, bench.asked()) == ([], {"first": [], "second": []})


@pytest.mark.parametrize(
    ("deadline_ms", "age_ms", "left_ms"),
    [(0, 0, 1_000.0), (0, 999, 1.0), (0, 1_000, None), (50, 10, 40.0), (50, 50, None), (5_000, 4_000, 1_000.0),
     (50, -60_000, 50.0)],
)  # fmt: skip
def test_age_counts_from_arrival(bench: Bench, deadline_ms: int, age_ms: int, left_ms: float | None) -> None:
    """Ranking has what is left of the deadline; nothing left: no ranking. A clock that is behind adds nothing."""
    reply = bench.answerer.answer(RankRequest("1", "u", deadline_ms=deadline_ms), bench.clock.now_ms - age_ms)
    if left_ms is None:
        assert (reply.kind, reply.items) == ("expired", [])
        assert f"{age_ms} ms old and had {deadline_ms or 1_000} ms" in reply.error
        assert (bench.looked_up, bench.asked()["first"]) == ([], [])
    else:
        assert (reply.kind, bool(reply.items)) == ("", True)
        assert bench.rankers["first"].left_ms == left_ms


def test_what_a_request_brings_is_not_looked_up(bench: Bench) -> None:
    """Its own history is used, also an empty one, and its own attributes."""
    for request_id, history in (("1", ["i1"]), ("2", [])):
        bench.answerer.answer(RankRequest(request_id, "u", history=history, attributes={}), 10_000)
    assert (bench.looked_up, bench.asked()["first"]) == ([], [("1", ["i1"]), ("2", [])])


def test_many_profiles_are_one_look_up(bench: Bench) -> None:
    """A batch of requests asks once, for each user once."""
    batch = [RankRequest("1", "u"), RankRequest("2", "v", history=[]), RankRequest("3", "w"), RankRequest("4", "u")]
    profiles = bench.answerer.begin_profiles(batch)
    for request in batch:
        bench.answerer.answer_with(request, 10_000, profiles)
    assert bench.looked_up == [["u", "v", "w"]]
    assert dict(bench.asked()["first"]) == {"1": ["of-u"], "2": [], "3": ["of-w"], "4": ["of-u"]}


@pytest.mark.parametrize(
    ("failure", "kind", "why"),
    [(BadEvent("nothing to rank"), "invalid", "nothing to rank"), (ZeroDivisionError("x"), "failed", "ranker failed")],
)  # fmt: skip
def test_a_failure_is_a_reply(bench: Bench, failure: Exception, kind: str, why: str) -> None:
    """Ranking that fails answers the request with the reason; the next request is answered as usual."""
    bench.rankers["first"].failure = failure
    reply = bench.answerer.answer(RankRequest("1", "u"), 10_000)
    assert (reply.kind, reply.items) == (kind, [])
    assert why in reply.error
    bench.rankers["first"].failure = None
    assert bench.answerer.answer(RankRequest("2", "u"), 10_000).kind == ""


def test_who_is_shed_is_told_what_to_do() -> None:
    """The reply names the queue and the remedy."""
    reply = shed(RankRequest("1", "u", time_ms=5), 250.4)
    assert (reply.request_id, reply.user, reply.kind, reply.time_ms) == ("1", "u", "shed", 5)
    assert "250 ms" in reply.error
    assert "more rankers" in reply.error
