"""Every kind of statistic goes the whole way: spec, learner, snapshot, ranker, retrieval, River estimator."""

import ast
import re
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest

from learner.estimator import WideAndDeep
from learner.publishing.version_builder import VersionBuilder
from learner.publishing.version_parts import statistics_source
from learner.training.model import Model
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.retrieval.item_counts import install_statistic
from ranker.versions.snapshot_validation import statistic_change
from stream.events.types import Item, RankRequest
from stream.features.encoder import one_page
from stream.features.item_similarity import Outcomes
from stream.features.page_features import Catalogue, Layout, build_page, statistics_of
from stream.features.statistics import Statistics, StatisticsProgram
from stream.history.profiles import UserProfile
from stream.runtime.errors import BadSnapshot, SpecError
from stream.snapshots.memory_store import MemoryStore
from stream.spec.columns import Statistic
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from stream.spec.statistic_kinds import (
    KINDS,
    LEARN_LABELS,
    LEARN_MEMORY,
    LEARNS,
    MEMORY_LEARNS,
    READS,
    Kind,
    Measure,
    checked,
)
from stream.tables.dtypes import F32, U64
from tests.support.learner_world import SPEC, records

GOES_BY = {
    "fields": 'by = ["item.id"]',
    "history": 'of = "item.id", to = "user.history"',
    "memory": 'by = ["user.id", "item.id"]',
    "installs": 'of = "installs", by = ["user.id", "item.id"]',
}
ROOT = Path(__file__).parents[2]
LATER_MS = 2_000_000
every_kind = pytest.mark.parametrize("kind", KINDS)


def text_of(kind: str, by: str) -> str:
    """The small world's spec with one statistic, of this kind."""
    one = f'[statistics]\none = {{ kind = "{kind}", {by} }}\n'
    text = re.sub(r"\[statistics\]\n.*?(?=\[wide\])", one, SPEC, flags=re.DOTALL)
    return text.replace('"2s"', '"2s"\norganic = "examples"') if 'of = "installs"' in by else text


def spec_of(kind: Measure) -> Spec:
    """The same, parsed: the statistic goes by what its kind does."""
    return parse_spec(text_of(kind, GOES_BY[KINDS[kind].goes_by]))


@dataclass(frozen=True)
class Walked:
    """A model that has learned, and a ranker that serves it."""

    model: Model
    follower: VersionWatcher
    ranker: Ranker

    def page(self) -> U64:
        """Items of which some were learned, for a user with a history."""
        catalogue, layout = Catalogue(self.model.layout), self.model.layout
        rows = np.array([catalogue.put(Item(f"i{n}")) for n in range(40)])
        return build_page(layout, layout.user("u5", {}, ["i1", "i2", "i3"], {}), catalogue, rows)


@cache
def walked(kind: Measure) -> Walked:
    """Learned, published, followed; at the ranker, nothing of it is refused."""
    spec = spec_of(kind)
    model, store, pools = Model(spec), MemoryStore(spec.name), EntityCache()
    for offset, record in enumerate(records(spec, 90)):
        model.learn(record, offset)
    assert not model.rejected
    cut = VersionBuilder(model).build(1, 0, store.take_token(), 30, 1, {}, deep=True)
    store.put_blobs(cut.blobs)
    store.publish(cut.manifest)
    for n in range(30):
        pools.put(f"i{n}", Item(f"i{n}", popularity=float(n)))
    follower = VersionWatcher(store, spec.name, pools, lambda: LATER_MS)
    assert follower.step(), follower.rejection
    return Walked(model, follower, Ranker(pools, follower, Scorer(1), lambda: LATER_MS))


def read(walk: Walked) -> tuple[F32, F32]:
    """What the learner's statistics say of a page, and what the ranker's do."""
    ours, theirs, served = walk.page(), walk.page(), walk.follower.served
    assert served is not None
    walk.model.statistics.fill(ours, LATER_MS)
    served.version.fill(theirs, LATER_MS)
    return statistics_of(walk.model.layout, ours), statistics_of(walk.model.layout, theirs)


@every_kind
def test_a_kind_is_learned_and_read_alike_by_learner_and_ranker(kind: Measure) -> None:
    """What was learned can be read, differs by item, and a ranker reads the same."""
    walk = walked(kind)
    ours, theirs = read(walk)
    assert np.allclose(ours, theirs, rtol=1e-6, equal_nan=True)
    values = ours[1:]
    assert len(set(values[~np.isnan(values)].tolist())) > 5
    untouched = walk.page()
    Statistics(StatisticsProgram(walk.model.spec, walk.model.layout)).fill(untouched, LATER_MS)
    assert not np.allclose(statistics_of(walk.model.layout, untouched), ours, equal_nan=True)


def test_no_kind_is_read_as_another() -> None:
    """On the same labels, each kind says something else of the same page."""
    said = {kind: read(walked(kind))[0].tobytes() for kind in KINDS}
    assert len(set(said.values())) == len(KINDS)


@every_kind
def test_retrieval_orders_by_kinds_that_sum_labels(kind: Measure) -> None:
    """Candidates are found whatever the kind; by installs where s is a sum of labels by the item alone."""
    walk = walked(kind)
    served = walk.follower.served
    assert served is not None
    assert (install_statistic(served.version.plan) is not None) == (KINDS[kind].learn == LEARN_LABELS)
    reply = walk.ranker.answer(RankRequest("r", "u1", 5), lambda: UserProfile([], {}), time.monotonic())
    assert (len(reply.items), reply.scored, reply.version) == (5, 30, 1)


@every_kind
def test_contents_may_hold_other_bits_than_numbers_for_kinds_with_a_memory_only(kind: Measure) -> None:
    """A sum that isn't finite is refused, unless s may be an item's id."""
    walk = walked(kind)
    served = walk.follower.served
    assert served is not None
    rows = statistics_source(walk.model).payload(None)["rows"].copy()
    assert len(statistic_change({"rows": rows}, served.version.plan).keys) == len(rows)
    rows.view(np.float64)[0, 2] = np.inf
    if KINDS[kind].learn in MEMORY_LEARNS:
        assert len(statistic_change({"rows": rows}, served.version.plan).keys) == len(rows)
    else:
        with pytest.raises(BadSnapshot, match="isn't finite"):
            statistic_change({"rows": rows}, served.version.plan)


@every_kind
def test_the_estimator_takes_kinds_that_go_by_fields(kind: Measure) -> None:
    """It has neither histories nor pages' users; other kinds are refused at once."""
    one = {"one": {"kind": kind, "by": ["user"]}}
    if KINDS[kind].goes_by != "fields":
        with pytest.raises(SpecError, match=kind):
            WideAndDeep(statistics=one)
        return
    estimator = WideAndDeep(wide=["user"], deep=["user"], statistics=one, hidden_units=(4,), embedding_dim=2)
    for n in range(40):
        estimator.learn_one({"user": f"u{n % 4}"}, n % 4 == 0)
    assert estimator.predict_proba_one({"user": "u0"})[True] > estimator.predict_proba_one({"user": "u1"})[True]


@every_kind
def test_organic_installs_move_kinds_that_need_no_label(kind: Measure) -> None:
    """Of organic installs: taken where the table says so, else refused, by line."""
    text = text_of(kind, 'of = "organic", by = ["item.id"]').replace('"2s"', '"2s"\norganic = "examples"')
    if KINDS[kind].organic:
        spec = parse_spec(text)
        assert StatisticsProgram(spec, Layout(spec)).organic.tolist() == [0]
    else:
        with pytest.raises(SpecError, match=r"line \d+.*(affinity is of|lift is of|organic installs have no label)"):
            parse_spec(text)


def test_an_unknown_kind_is_an_error() -> None:
    """In a spec file, in a statistic that a program made, and in the kernels: nothing is read or learned by default."""
    with pytest.raises(SpecError, match="can't be 'rates'; did you mean 'rate'"):
        parse_spec(text_of("rates", GOES_BY["fields"]))
    spec = spec_of("rate")
    unknown = msgspec.structs.replace(spec, statistics={"one": Statistic("rates", by=["item.id"])})  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="no statistic of the kind 'rates'"):
        StatisticsProgram(unknown, Layout(spec))
    statistics = Statistics(StatisticsProgram(spec, Layout(spec)))
    words, one = walked("rate").page(), np.ones(40)
    program = statistics.program
    program.rules = program.rules._replace(reads=np.array([len(READS)]))
    with pytest.raises(ValueError, match="read by an unknown branch"):
        statistics.fill(words, 1)
    program.learn_rules = program.learn_rules._replace(learns=np.array([len(LEARNS)]))
    with pytest.raises(ValueError, match="learns by an unknown branch"):
        statistics.learn(one_page(words), Outcomes(one, one, np.zeros(40, np.int64), one))


@pytest.mark.parametrize(
    "wrong",
    [
        {name: kind for name, kind in KINDS.items() if name != "since"},
        {**KINDS, "since": KINDS["since"]._replace(read=len(READS))},
        {**KINDS, "since": KINDS["since"]._replace(learn=len(LEARNS))},
        {**KINDS, "since": KINDS["since"]._replace(goes_by="time")},  # type: ignore[arg-type]  # the test
        {**KINDS, "since": KINDS["since"]._replace(learn=LEARN_MEMORY)},
    ],
    ids=["none", "read", "learn", "goes by", "half a memory"],
)
def test_the_table_must_be_whole(wrong: dict[Measure, Kind]) -> None:
    """A kind without a row, or with a branch that doesn't exist, is an error when the table is imported."""
    with pytest.raises(AssertionError):
        checked(wrong)


def test_kinds_are_named_in_one_file() -> None:
    """No other code of stream, learner, ranker or producers asks for a kind by its name: a new one needs none of it."""
    named = {
        path.name
        for room in ("stream", "learner", "ranker", "producers")
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in KINDS
    }
    assert named == {"statistic_kinds.py"}
