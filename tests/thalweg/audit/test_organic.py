"""Organic installs from the log to what a page is ranked by, and what operators' commands make of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from learner.checkpoints.checkpoint_files import CheckpointFiles
from learner.learner import Learner
from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from producers.features import FeatureBuilder
from producers.source import WorldEvent
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from stream.events.codec import decode_training, encode
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ
from stream.events.types import Impression, Install, Item, Organic, RankRequest, Tick
from stream.features.encoder import Encoder, one_page
from stream.features.page_features import Layout, words_of
from stream.history.profiles import UserProfile
from stream.joiner.label_rules import LabelRules, label_rules
from stream.log.dead_letters import dead_letter
from stream.log.memory_log import MemoryLog
from stream.log.protocol import Record
from stream.snapshots.memory_store import MemoryStore
from stream.spec.parts import Label
from stream.spec.spec import Spec
from tests.support.backtest_world import START_MS, TEXT, backtested, camps_spec, world
from tests.support.join_oracle import as_audited
from tests.support.joined_streams import RULES, Stream, T, mixed
from tests.support.organic_faults import SABOTAGE
from thalweg.audit.audit import audit
from thalweg.audit.findings import AuditReport
from thalweg.audit.rules import audit_rules
from thalweg.views.dead_letters import read_dead_letters
from thalweg.views.dead_letters import replay as send_back
from thalweg.views.trace import trace

END = T + 1_000_000
WANTED = replace(RULES, organic=True, organic_examples=True)
COUNTED = '[statistics]\nwithout_page = { kind = "count", of = "organic", by = ["item.id"], half_life = "1h" }'
SPEC = camps_spec(TEXT.replace("[statistics]", COUNTED).replace('window = "8s"', 'window = "8s"\norganic = "examples"'))


def strangers(count: int) -> list[WorldEvent]:
    """A world in which now and then somebody installs i7 (often) or i4 (once) who was shown no page."""
    events = world(count)
    times = [event.time_ms for event in events if isinstance(event, Impression)]
    found: list[WorldEvent] = [Install(f"s{n}", "i7", at, f"s{n}") for n, at in enumerate(times[::6])]
    return sorted([*events, *found, Install("s", "i4", START_MS, "s")], key=lambda one: getattr(one, "time_ms", 0))


def without_page(spec: Spec, features: bytes, items: int) -> list[float]:
    """That statistic of a page's items."""
    layout = Layout(spec)
    encoder = Encoder(spec, layout)
    numbers = encoder.deep_input(one_page(words_of(features, layout, items))).numbers
    return [float(value) for value in numbers[:, encoder.deep_numbers.index("statistics.without_page")]]


def test_a_page_is_ranked_by_the_popularity_that_organic_installs_show(tmp_path: Path) -> None:
    """Events, join, `examples`, learner, snapshot, ranker: a reply carries the decayed count of organic installs."""
    stream = Stream(label_rules(SPEC))
    maker, last_ms = FeatureBuilder(SPEC, 2), 0
    for event in strangers(60):
        taken = maker.process(event).event
        if isinstance(taken, Impression | Install):
            stream.now_ms = last_ms = taken.time_ms
            stream.send(taken)
    stream.now_ms = last_ms = last_ms + 60_000
    stream.tick(last_ms)
    stream.join()
    log = MemoryLog({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: last_ms)
    model, store, pools = Model(SPEC), MemoryStore(SPEC.name), EntityCache()
    learner = Learner(log, model, 0, CheckpointFiles(tmp_path), checkpoint_every_ms=10**9)
    learner.learn(learner.model.record_encoder.records(stream.log.reader(EXAMPLES.name, {0: 0}).poll(0)), lambda: None)
    assert model.organic == 11
    cut = VersionBuilder(model).build(1, 0, store.take_token(), learner.offset, last_ms, {}, deep=True)
    store.put_blobs(cut.blobs)
    store.publish(cut.manifest)
    for n in range(12):
        pools.put(f"i{n}", Item(f"i{n}", {"tags": ["cold", "warm"][: 1 + n % 2]}))
    follower, scorer = VersionWatcher(store, SPEC.name, pools, lambda: last_ms), Scorer(1)
    assert follower.step(), follower.rejection
    asked = RankRequest("q", "u1", 3, last_ms, candidates=["i4", "i7", "i9"])
    reply = Ranker(pools, follower, scorer, lambda: last_ms).answer(asked, lambda: UserProfile([], {}), 0.0)
    scorer.close()
    found = dict(zip(reply.items, without_page(SPEC, reply.features, 3), strict=True))
    times = [event.time_ms for event in strangers(60) if isinstance(event, Install) and event.user.startswith("s")]
    times.remove(START_MS)  # i4's
    decayed = [sum(2 ** ((at - last_ms) / 3_600_000) for at in part) for part in ([START_MS], times)]
    assert found == pytest.approx({"i4": math.log1p(decayed[0]), "i7": math.log1p(decayed[1]), "i9": 0.0}, rel=1e-5)


def test_a_backtest_plays_them_as_joiner_and_learner_would() -> None:
    """Its pages know organic installs as those of the feature maker do; what is predicted depends on them."""
    events = strangers(200)
    with_them, backtest = backtested(events, ["deep"], spec=SPEC)
    label = msgspec.structs.replace(SPEC.label, organic="topic")
    without, _ = backtested(events, ["deep"], spec=msgspec.structs.replace(SPEC, label=label))
    assert with_them.predictions.tobytes() != without.predictions.tobytes()
    np.testing.assert_array_equal(with_them.labels, without.labels)
    counts = backtest.maker.statistics.table.rows()[:, 0].tolist()
    program = backtest.maker.statistics.program
    installs = [Organic("u", item, 1, "x") for item in ("i4", "i7", "i3")]
    *known, unknown = program.organic_keys(program.organic_ids(installs)).tolist()
    assert set(known) <= set(counts)
    assert unknown not in counts


def played(
    rules: LabelRules, spoil: Callable[[Sequence[Organic]], Sequence[Organic]] = lambda emitted: emitted, seed: int = 1
) -> Stream:
    """A stream of all kinds of events, joined to its end."""
    stream = Stream(rules, now_ms=END)
    for group in mixed(seed, 60):
        stream.send(*(event for event in group if not isinstance(event, Tick)))
    stream.tick(END)
    stream.join(spoil_in_examples=spoil)
    return stream


def audited(stream: Stream) -> AuditReport:
    """By the stream's own rules."""
    return audit(stream.log, as_audited(stream.rules), None)


@pytest.mark.parametrize("fault", SABOTAGE)
def test_the_audit_judges_those_in_examples_where_they_are_wanted(fault: str) -> None:
    """One that is missing there, or that a page has claimed, is named; duplicates are fine."""
    right = audited(played(WANTED))
    assert right.is_clean
    assert right.figures["organic"] == right.figures["organic_in_examples"] > 0
    assert audited(played(WANTED, lambda emitted: [*emitted, *emitted])).is_clean
    found = audited(played(WANTED, SABOTAGE[fault]))
    assert {one.fault for one in found.differences} == {fault}
    assert all("install " in one.about for one in found.differences)
    nowhere = audited(played(replace(WANTED, organic_examples=False)))
    assert (nowhere.is_clean, nowhere.figures["organic_in_examples"]) == (True, 0)


def test_one_that_a_learner_has_forgotten_when_it_comes_again_is_learned_twice() -> None:
    """As many others lie between, examples or organic installs, as it remembers: a fault, named by its install."""
    stream = Stream(WANTED, now_ms=END)
    stream.send(Impression("r", T, "u", ["a", "b"]), *(Install("u", "z", T, f"i{n}") for n in range(2)))
    stream.tick(END)
    stream.join(spoil_in_examples=lambda emitted: [*emitted, *emitted[:1]])
    for memory, twice in ((1, 1), (2, 0)):
        found = audit(stream.log, as_audited(WANTED), None, memory=memory)
        assert (found.figures["emitted_again"], found.figures["learned_twice"]) == (1, twice)
        assert [one.about for one in found.differences] == ["install i0 of u, item z"] * twice


@pytest.mark.parametrize(
    ("organic", "wanted"),
    [(False, (False, False)), (True, (True, False)), ("topic", (True, False)), ("examples", (True, True))],
)
def test_the_audit_reads_the_option_as_the_joiner_does(organic: bool | str, wanted: tuple[bool, bool]) -> None:
    """A second reading of the spec, which comes to the same."""
    label = msgspec.convert({"organic": organic}, Label)
    spec = msgspec.structs.replace(SPEC, label=label)
    for rules in (label_rules(spec), audit_rules(spec)):
        assert (rules.organic, rules.organic_examples) == wanted


def test_a_trace_passes_over_them() -> None:
    """A page's life has its labels, whatever stands between them."""
    stream = Stream(WANTED)
    stream.send(Impression("r", T, "u", ["a"]), Install("u", "z", T, "r", "r"), Install("u", "a", T + 5, "i"))
    stream.now_ms = END
    stream.tick(END)
    stream.join()
    events = [event for record in stream.log.reader(EXAMPLES.name, {0: 0}).poll(0)
            for event in decode_training(record.value or b"")[0]]  # fmt: skip
    assert [type(event).__name__ for event in events] == ["Examples", "Organic"]
    life = trace(stream.log, as_audited(WANTED), "r", now_ms=END, since_ms=0)
    assert life.labels == {"a": 1}
    assert life.count("example") == 1


def test_one_that_was_buried_can_be_sent_again() -> None:
    """A letter's bytes become a record of `examples` with one organic install."""
    stream, one = Stream(), Organic("u", "a", T, "i", "", T)
    made = dead_letter(encode(one), "BadEvent", "by an older learner", Record(EXAMPLES.name, 0, 7, T, None, b""))
    stream.log.send(made.topic, made.partition, made.value, made.key)
    assert send_back(stream.log, read_dead_letters(stream.log, EXAMPLES.name)).sent == 1
    (record,) = stream.log.reader(EXAMPLES.name, {0: 0}).poll(0)
    assert decode_training(record.value or b"") == ([one], [])
