"""From a request to its reply, with everything in memory."""

import time

import msgspec
import numpy as np
import pytest

from ranker.kernels.plan import Plan
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker, rank_with
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.retrieval.item_counts import install_statistic, installs_of
from ranker.versions.model import score_features
from ranker.versions.version_loader import load_version
from stream.events.codec import decode_events, encode, encode_record
from stream.events.types import EVENT_BYTES_MAX, Impression, Item, RankReply, RankRequest, Value
from stream.features.encoder import one_page
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, build_page, id_of, seed_of
from stream.features.page_kernels import open_page
from stream.history.profiles import UserProfile
from stream.runtime.errors import BadEvent
from stream.snapshots.memory_store import MemoryStore
from stream.spec.retrieval import Retrieval
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from stream.tables.dtypes import U64
from tests.support.random_models import COLUMNS, HELD, ToyModel, items, some_spec

NOW_MS = 4_000_000
ATTRIBUTES: dict[str, Value] = {"age": 30.0, "likes": ["a"]}  # of u1


class House:
    """A ranker of one toy model over 30 known items; `publish` also follows."""

    def __init__(self, threads: int = 2, spec: Spec | None = None) -> None:
        self.store = MemoryStore("m")
        self.model = ToyModel(spec or some_spec(np.random.default_rng(5), ["wide", "deep"]), 5)
        self.cache = EntityCache()
        for item in items(30):
            self.cache.put(item.item, item)
        self.watcher = VersionWatcher(self.store, "m", self.cache, lambda: NOW_MS)
        self.scorer = Scorer(threads, batch_items=4)
        self.ranker = Ranker(self.cache, self.watcher, self.scorer, lambda: NOW_MS)

    def publish(self) -> None:
        """The next version is live."""
        self.model.learn()
        self.model.publish(self.store)
        assert self.watcher.step(), self.watcher.rejection

    def answer(self, known: list[str] | None = None, **request: object) -> RankReply:
        """The reply to a request of u1; without a known history unless one is given."""
        given = RankRequest(**{"request_id": "r", "user": "u1", "k": 5, **request})  # type: ignore[arg-type]
        profile = UserProfile(known, ATTRIBUTES if given.user == "u1" else None)
        return self.ranker.answer(given, lambda: profile, time.monotonic())


@pytest.fixture
def house() -> House:
    """A ranker without a model yet."""
    return House()


def test_without_a_model_items_come_by_popularity(house: House) -> None:
    """Before any snapshot: statically most popular first, less what the user has; version 0, and the reply says so."""
    reply = house.answer(["i0", "i2"])
    assert reply.items == ["i1", "i3", "i4", "i5", "i6"]
    assert (reply.scores[0], reply.version, reply.notes, reply.features) == (29.0, 0, ["no_model"], b"")
    assert house.answer(["i0"], candidates=["nobody", "i7", "i3"]).items == ["i3", "i7", "nobody"]


def test_a_reply_is_cut_to_what_an_impression_holds(house: House) -> None:
    """Items, scores and features together: the best ones whose page fits an event with whatever its sender adds."""
    house.publish()
    version = load_version(house.store, "m", 1)
    names = [f"{n:0200}" for n in range(1_000)]
    context: dict[str, str | float] = {"device": "x" * 3_000}
    whole, reply = (house.answer([], k=k, candidates=names, context=context) for k in (5, 1_000))
    assert (len(whole.items), whole.notes) == (5, [])
    n = len(reply.items)
    assert (reply.notes, reply.scored, 5 < n < 1_000) == (["features_cut"], 1_000, True)
    assert reply.items[:5] == whole.items
    assert np.abs(score_features(version, reply.features, n) - reply.scores).max() <= 1e-5
    shown = Impression("r", reply.time_ms, "u1", reply.items, "ü" * 128, 1, reply.scores, reply.scores, reply.features,
                       context)  # fmt: skip
    assert decode_events(encode_record([shown])) == ([shown], [])
    assert len(encode(shown)) > EVENT_BYTES_MAX - 1_000


def test_unknown_candidates_leave_nothing_behind(house: House) -> None:
    """However many names requests make up: they're ranked by their ids, and neither catalogue nor items grow."""
    house.publish()
    served = house.watcher.served
    assert served is not None
    before = len(served.catalogue), len(house.cache.items)
    for n in range(20):
        names = [f"junk {n} {i}" for i in range(500)]
        assert house.answer([], candidates=[*names, "i1"], k=501).scored == 501
    assert (len(served.catalogue), len(house.cache.items)) == before
    reply = house.answer(["i2"], candidates=["nobody", "i1"], k=2)
    known = Catalogue(served.version.plan.layout)
    for item in items(30):
        known.put(item)
    layout = served.version.plan.layout
    user = layout.user("u1", ATTRIBUTES, ["i2"], {})
    words = build_page(layout, user, known, known.rows(["nobody", "i1"]), reply.time_ms)
    ranked = rank_with(served.version, words, reply.time_ms, 2, house.scorer)
    assert (ranked.scores, ranked.features) == (reply.scores, reply.features)


def test_a_context_that_no_impression_holds_is_an_error(house: House) -> None:
    """A page that can't be logged isn't ranked: the reason names the context."""
    house.publish()
    with pytest.raises(BadEvent, match="send a shorter context"):
        house.answer([], context={"device": "x" * EVENT_BYTES_MAX})


def test_a_reply_can_be_recomputed(house: House) -> None:
    """Its features, scored by the version that it names, give its scores within 1e-5, best first."""
    for n in range(1, 12):
        house.publish()
        reply = house.answer([f"i{n}", "i2"], k=n, candidates=[f"i{i}" for i in range(n, n + 20)])
        version = load_version(house.store, "m", reply.version)
        assert (reply.version, len(reply.items), reply.scored, reply.notes) == (n, n, 20, [])
        assert np.abs(score_features(version, reply.features, n) - reply.scores).max() <= 1e-5
        assert reply.scores == sorted(reply.scores, reverse=True)


def test_what_is_held_still_ranks_alike_and_is_logged_as_given() -> None:
    """Whatever a request says of `serve_as` columns: the scores at the fixed value; features as given."""
    spec = parse_spec(f"""name = "m"
{COLUMNS}{HELD}
[wide]
features = ["item.id", "context.device"]
crosses = [["context.device", "item.id"], ["context.hour_band", "item.tags"]]
[deep]
features = ["item.tags", "context.device", "context.hour", "context.hour_band"]
embedding_dim = 3
hidden_units = [4]
""")
    house = House(spec=spec)
    house.publish()
    version, features = load_version(house.store, "m", 1), set[bytes]()
    said: list[dict[str, Value]] = [{"device": "y", "hour": 20.0}, {"device": "x", "hour": 3.0}, {}]
    replies = [house.answer(["i1"], context=context) for context in said]
    for context, reply in zip(said, replies, strict=True):
        assert (reply.items, reply.scores) == (replies[0].items, replies[0].scores)
        assert np.abs(score_features(version, reply.features, 5) - reply.scores).max() <= 1e-5
        layout, catalogue = house.model.layout, house.model.catalogue
        user = layout.user("u1", ATTRIBUTES, ["i1"], context)
        page = build_page(layout, user, catalogue, catalogue.rows(reply.items), reply.time_ms)
        base = open_page(page, version.plan.layout.size_array).at.base_rate  # after all that is the user's
        assert page.tobytes()[: 4 * base] == reply.features[: 4 * base]
        features.add(reply.features)
    assert len(features) == len(said)


def test_a_reply_has_the_best_of_all_candidates(house: House) -> None:
    """k of n candidates are those with the greatest scores, whichever batch they were scored in."""
    house.publish()
    candidates = [f"i{i}" for i in range(30)]
    whole = house.answer(["i3"], k=1000, candidates=candidates)
    assert set(whole.items) == set(candidates)
    best = house.answer(["i3"], k=7, candidates=candidates[::-1])
    assert best.scores == pytest.approx(whole.scores[:7], abs=1e-6)
    of = dict(zip(whole.items, whole.scores, strict=True))  # items may change places when their scores are equal
    assert [of[item] for item in best.items] == pytest.approx(best.scores, abs=1e-6)


def test_candidates_are_ranked_once_each(house: House) -> None:
    """Candidates that come twice or are empty texts don't make a page that no impression could repeat."""
    house.publish()
    reply = house.answer(candidates=["i1", "i2", "i1", "", "i2"])
    assert sorted(reply.items) == ["i1", "i2"]


def test_without_candidates_popular_items_are_retrieved(house: House) -> None:
    """Candidates come by installs in the live statistics, and none is what the user has."""
    house.publish()
    served = house.watcher.served
    assert served is not None
    names = [item.item for item in sorted(house.cache.items.values(), key=lambda item: -item.popularity)]
    installs = installs_of(served.version, ids_of(names))
    assert installs is not None
    assert installs.max() > 0
    order = [names[i] for i in np.argsort(-installs, kind="stable")]
    assert house.watcher.pool_builder.pools.orders["popular"] == order
    reply = house.answer(order[:3], k=1000)
    assert set(reply.items) == set(order[3:])


def test_what_the_user_has_is_left_out_however_long_ago_it_came(house: House) -> None:
    """The whole history counts, also what no column has room for."""
    house.publish()
    have = [f"i{n}" for n in range(25)]
    assert house.model.layout.history_last < 25
    assert set(house.answer(have, k=1000).items) == {f"i{n}" for n in range(25, 30)}
    assert set(house.answer([], k=1000, history=have).items) == {f"i{n}" for n in range(25, 30)}


def test_installs_are_the_statistics_sums(house: House) -> None:
    """An item's installs grow by 1 with each positive label that statistics learn, and by nothing else."""
    model, late_ms = house.model, 100_000_000
    assert any(s.by == ["item.id"] for s in model.spec.statistics.values()), "the spec must keep something by item"
    before = _installs(house, late_ms)
    rows = model.catalogue.rows([f"i{n}" for n in range(8)])
    page = build_page(model.layout, model.layout.user("u1", {}, [], {}), model.catalogue, rows, late_ms)
    labels = (np.arange(8) % 2).astype(np.float64)
    outcomes = Outcomes(labels, np.ones(8), np.zeros(8, np.int64), np.full(8, float(late_ms)))
    model.statistics.learn(one_page(page), outcomes)
    grown = {item: installs - before[item] for item, installs in _installs(house, late_ms).items()}
    assert grown == pytest.approx({f"i{n}": (n % 2.0 if n < 8 else 0.0) for n in range(30)})


def test_items_are_retrieved_by_labels_before_organic_installs() -> None:
    """Whichever statistic comes first in the spec: one of all installs, else of labels, else of organic installs."""
    organic = 'popular = { kind = "count", of = "organic", by = ["item.id"], half_life = "1h" }'
    text = f"""
name = "m"
parts = ["wide"]
[user]
id = "category"
[item]
id = "category"
[statistics]
{organic}
seen = {{ kind = "count", by = ["item.id"] }}
[wide]
features = ["item.id"]
[label]
organic = "examples"
"""
    all_of_them = Plan(parse_spec(text.replace(organic, organic.replace('"organic"', '"installs"'))))
    assert install_statistic(all_of_them) == (all_of_them.program.crosses.salts[0], 3_600_000.0)
    both = Plan(parse_spec(text))
    assert install_statistic(both) == (both.program.crosses.salts[1], 0.0)
    alone = Plan(
        parse_spec(
            text.replace('seen = { kind = "count", by = ["item.id"]', 'seen = { kind = "count", by = ["user.id"]')
        )
    )
    assert install_statistic(alone) == (alone.program.crosses.salts[0], 3_600_000.0)


def ids_of(names: list[str]) -> U64:
    """The ids by which statistics know items."""
    return np.array([id_of(seed_of("item.id"), name) for name in names], np.uint64)


def _installs(house: House, watermark_ms: int) -> dict[str, float]:
    house.model.publish(house.store, watermark_ms=watermark_ms)
    house.watcher.step()
    served = house.watcher.served
    assert served is not None
    names = list(house.cache.items)
    found = installs_of(served.version, ids_of(names))
    assert found is not None
    return dict(zip(names, found.tolist(), strict=True))


def test_replies_say_what_was_left_out(house: House) -> None:
    """No history and no attributes are noted; given in the request, they spare both."""
    house.publish()
    assert house.answer(None).notes == ["no_history"]
    assert house.answer(["i1"], user="stranger").notes == ["no_user"]
    assert house.answer(["i1"], user="stranger", attributes={"age": 3.0}).notes == []

    def unasked() -> UserProfile:
        raise AssertionError("the request brings all")

    request = RankRequest("r", "stranger", history=[], attributes={})
    assert house.ranker.answer(request, unasked, time.monotonic()).notes == []


def test_a_passed_deadline_answers_with_the_first_batch(house: House) -> None:
    """Past its deadline a request is answered with what is scored, at least one batch, and says so."""
    house.publish()
    request = RankRequest("r", "u1", 100, candidates=[f"i{i}" for i in range(30)])
    read_s = time.monotonic()
    reply = house.ranker.answer(request, lambda: UserProfile([], ATTRIBUTES), read_s, read_s - 1.0)
    assert (reply.scored, len(reply.items), reply.notes) == (4, 4, ["deadline"])
    assert set(reply.items) <= {f"i{i}" for i in range(4)}


def test_time_is_the_requests_or_goes_on_from_the_watermark(house: House) -> None:
    """Statistics are read as of the request's time; without one, as of the watermark plus the wall time since."""
    house.publish()
    served = house.watcher.served
    assert served is not None
    manifest = served.version.manifest
    assert house.answer(time_ms=77).time_ms == 77
    reply = house.answer()
    assert reply.time_ms == manifest.watermark_ms + NOW_MS - manifest.created_ms
    assert (reply.staleness_ms, reply.live_since_ms) == (NOW_MS - manifest.learned_ms, NOW_MS)


def test_items_that_come_later_are_ranked_with_their_attributes(house: House) -> None:
    """An item that is written after the swap is ranked by its columns, one that is taken back isn't retrieved."""
    house.publish()
    unknown = house.answer(["i1"], candidates=["new"])
    house.cache.put("new", Item("new", {"tags": ["a", "b"], "year": 1999.0}))
    known = house.answer(["i1"], candidates=["new"])
    assert unknown.features != known.features
    house.cache.put("i0", None)
    assert "i0" not in house.answer(k=1000).items


def test_nothing_to_rank_is_an_error(house: House) -> None:
    """With no item left to rank there's no answer, and the message says whose lack it is."""
    everything = [f"i{n}" for n in range(30)]
    for _ in range(2):  # without a model, then with one
        with pytest.raises(BadEvent, match="user u1 has every item"):
            house.answer(everything)
        with pytest.raises(BadEvent, match="list of candidates is empty"):
            house.answer(candidates=[""])
        house.publish()
    for name in everything:
        house.cache.put(name, None)
    with pytest.raises(BadEvent, match="no items are known; write items"):
        house.answer()


def test_a_reply_names_what_retrieved_each_item() -> None:
    """By item the source and its rank there, of what is returned; nothing for the request's own candidates."""
    spec = some_spec(np.random.default_rng(5), ["wide", "deep"])
    house = House(spec=msgspec.structs.replace(spec, retrieval=Retrieval(count=9, new=4, new_below=1_000)))
    popular = house.answer(["i0"])
    assert [*zip(popular.items, popular.sources, popular.source_ranks, strict=True)] == [
        (f"i{n}", "popular", n) for n in range(1, 6)
    ]
    house.publish()
    reply = house.answer(["i1"], k=1_000)
    assert len(reply.items) == reply.scored == 9
    assert sorted(reply.source_ranks[i] for i in range(9) if reply.sources[i] == "new") == [1, 2, 3, 4]
    order = [name for name in house.watcher.pool_builder.pools.orders["popular"] if name != "i1"]
    found = zip(reply.items, reply.sources, reply.source_ranks, strict=True)
    ranks = {name: rank for name, source, rank in found if source == "popular"}
    assert ranks == {name: order.index(name) + 1 for name in ranks}
    assert len(ranks) == 5
    given = house.answer(candidates=["i1", "i2"])
    assert (given.sources, given.source_ranks) == ([], [])


def test_an_item_that_was_just_described_gets_its_chance() -> None:
    """The next request after its record retrieves it as new, with whatever version is live."""
    spec = some_spec(np.random.default_rng(5), ["wide", "deep"])
    house = House(spec=msgspec.structs.replace(spec, retrieval=Retrieval(count=5, new=1, new_below=1)))
    house.publish()
    house.cache.put("fresh", Item("fresh", {"tags": ["a"]}))
    reply = house.answer([], k=5)
    assert (reply.sources[reply.items.index("fresh")], reply.source_ranks[reply.items.index("fresh")]) == ("new", 1)


def test_an_unknown_user_with_a_history_gets_a_personal_page() -> None:
    """Nobody knows the user: what the request says of history and context decides what is retrieved and its scores."""
    spec = some_spec(np.random.default_rng(5), ["wide", "deep"])
    retrieval = Retrieval(count=10, same=10, same_by=["item.tags"])
    house = House(spec=msgspec.structs.replace(spec, retrieval=retrieval))
    house.publish()
    context = {"device": "x"}
    with_a, with_c = (house.answer(None, user="nobody", history=[item], context=context, k=10) for item in ("i2", "i3"))
    assert with_a.notes == with_c.notes == ["no_user"]
    assert set(with_a.items) != set(with_c.items)
    assert "same" not in with_a.sources  # i2 has no tags
    assert with_c.sources == ["same"] * 10
    other = house.answer(None, user="nobody", history=["i3"], context={"device": "y"}, k=10)
    assert (other.items, other.features != with_c.features) == (with_c.items, True)
