"""Features for pages without any: what a ranker would have known at that offset of the log, and no more."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.features import FeatureBuilder, Histories
from producers.source import WorldEvent
from stream.events.codec import encode
from stream.events.types import EVENT_BYTES_MAX, Examples, Impression, Install, Item, Tick, User
from stream.features.page_features import Catalogue, Layout, build_page, words_of
from stream.joiner.join import Joiner
from stream.joiner.label_rules import label_rules
from stream.log.protocol import partition_of
from stream.runtime.errors import BadEvent
from stream.spec.spec import Spec
from tests.support.made_features import numbers_of, shown
from tests.support.producer_worlds import START_MS, install, page, statistics_of, tick, tiny_spec, worlds

PARTITIONS = 2


def told_by(spec: Spec, events: Sequence[WorldEvent]) -> list[Examples]:
    """What separate joiners emit for these events."""
    joiners = [Joiner(label_rules(spec)) for _ in range(PARTITIONS)]
    emitted = []
    for offset, event in enumerate(events):
        if isinstance(event, Tick):
            for joiner in joiners:
                emitted += joiner.feed([event], offset, event.time_ms)
        elif isinstance(event, Impression | Install):
            emitted += joiners[partition_of(event.user, PARTITIONS)].feed([event], offset, event.time_ms)
    return emitted


def history_of(user: str, events: Sequence[WorldEvent], last: int) -> list[str]:
    """The user's newest items after these events, by definition."""
    has: dict[str, int] = {}
    for event in events:
        if isinstance(event, Install) and event.user == user:
            if event.retracted:
                has.pop(event.item, None)
            else:
                has[event.item] = max(event.time_ms, has.get(event.item, 0))
    return sorted(has, key=lambda item: (has[item], item))[-last:]


@given(worlds, st.sampled_from(["wait", "eager", "fake_negative"]))
def test_a_page_knows_what_was_told_before_it_and_nothing_else(world: list[WorldEvent], policy: str) -> None:
    """Its features: attributes, the last installs and the statistics of labels emitted by the events before it."""
    spec = tiny_spec(policy)
    builder, layout = FeatureBuilder(spec, PARTITIONS), Layout(spec)
    log: list[WorldEvent] = []
    for event in world:
        before, taken = list(log), builder.process(event)
        log.append(taken.event)
        if not isinstance(taken.event, Impression):
            continue
        catalogue = Catalogue(layout)
        for item in (e for e in before if isinstance(e, Item)):
            catalogue.put(item)
        attributes = [e.attributes for e in before if isinstance(e, User) and e.user == taken.event.user]
        history = history_of(taken.event.user, before, 3)
        user = layout.user(taken.event.user, attributes[-1] if attributes else {}, history, taken.event.context)
        words = build_page(layout, user, catalogue, catalogue.rows(taken.event.items))
        plain = len(words) - (1 + 6 * len(taken.event.items) + layout.sizes[2] + 1) // 2
        made = words_of(taken.event.features, layout, len(taken.event.items))
        assert words[:plain].tobytes() == made[:plain].tobytes()
        statistics_of(spec, told_by(spec, before)).fill(words, taken.event.time_ms)
        np.testing.assert_allclose(made.view(np.float32)[2 * plain :], words.view(np.float32)[2 * plain :], rtol=1e-5)


@given(worlds, st.sampled_from(["wait", "eager", "fake_negative"]))
def test_it_tells_what_the_joiner_tells(world: list[WorldEvent], policy: str) -> None:
    """The examples of `take` are those of joiners that read the events as they were taken."""
    spec = tiny_spec(policy)
    builder = FeatureBuilder(spec, PARTITIONS)
    taken = [builder.process(event) for event in world]
    assert [e for t in taken for e in t.examples] == told_by(spec, [t.event for t in taken])


@given(worlds, st.sampled_from(["wait", "eager", "fake_negative"]), st.integers(1, 9))
def test_events_joined_together_are_as_one_by_one(world: list[WorldEvent], policy: str, size: int) -> None:
    """However many are prepared before they are joined: the same pages, labels and statistics, to the bit."""
    spec = tiny_spec(policy)
    single, grouped = FeatureBuilder(spec, PARTITIONS), FeatureBuilder(spec, PARTITIONS)
    one_by_one = [single.process(event) for event in world]
    together = []
    for first in range(0, len(world), size):
        together += grouped.join([grouped.prepare(event) for event in world[first : first + size]])
    assert together == one_by_one
    assert np.sort(grouped.statistics.rows(), 0).tobytes() == np.sort(single.statistics.rows(), 0).tobytes()


def test_a_page_of_exactly_the_limit_is_accepted() -> None:
    """Its size is that of the encoded event with its features, which isn't encoded to find out."""
    builder = FeatureBuilder(tiny_spec(), 1)
    short = shown(builder, page("r", 0))
    free = EVENT_BYTES_MAX - len(encode(msgspec.structs.replace(short, context={"x": "x" * 1_000}))) + 1_000
    full, over = (
        msgspec.structs.replace(page(name, 0), context={"x": "x" * (free + n)}) for n, name in enumerate("fo")
    )
    assert len(encode(shown(builder, full))) == EVENT_BYTES_MAX
    with pytest.raises(BadEvent, match=f"{EVENT_BYTES_MAX + 1} bytes"):
        builder.process(over)


def test_eager_a_positive_is_known_after_its_install() -> None:
    """Not to its own page, not to pages before the install; to the next page after it."""
    spec = tiny_spec("eager")
    builder = FeatureBuilder(spec, 1)
    own = shown(builder, page("r0", 0))
    meanwhile = shown(builder, page("r1", 500, user="v"))
    builder.process(install("i0", 1_000))
    after = shown(builder, page("r2", 1_000, user="v"))
    seen = [numbers_of(spec, builder, p)["item_seen"] for p in (own, meanwhile, after)]
    assert seen == pytest.approx([0, 0, np.log(2)])
    assert numbers_of(spec, builder, after)["item_rate"] > numbers_of(spec, builder, own)["item_rate"]


def test_a_negative_is_known_after_its_window() -> None:
    """Not to the page whose arrival closes the window, but to the one behind that."""
    spec = tiny_spec("eager")
    builder = FeatureBuilder(spec, 1)
    builder.process(page("r0", 0))
    closing, behind = shown(builder, page("r1", 2_000, user="v")), shown(builder, page("r2", 2_000, user="v"))
    assert [numbers_of(spec, builder, p)["item_seen"] for p in (closing, behind)] == pytest.approx([0, np.log(2)])


def test_wait_a_positive_is_known_after_its_window() -> None:
    """Under `wait` an install moves histories at once and statistics when the window closes."""
    spec = tiny_spec("wait")
    builder = FeatureBuilder(spec, 1)
    builder.process(page("r0", 0))
    builder.process(install("i0", 1_000))
    before = shown(builder, page("r1", 1_500))
    builder.process(tick(2_000))
    after = shown(builder, page("r2", 2_000))
    assert builder.histories.newest("u", 3) == ["a"]
    assert [numbers_of(spec, builder, p)["user_last"] for p in (before, after)] == pytest.approx(
        [np.nan, np.log(3)], nan_ok=True
    )


def test_what_moves_between_two_pages_is_seen_by_the_second() -> None:
    """New attributes, a new install, another context: each shows in the user's next page, and none lingers."""
    builder = FeatureBuilder(tiny_spec(), 1)
    made = [shown(builder, page("r0", 0)), shown(builder, page("r1", 0))]
    made.append(shown(builder, page("r2", 0, device="phone")))
    builder.process(User("u", {"age": 40.0}))
    made.append(shown(builder, page("r3", 0)))
    builder.process(install("i", 0, "b"))
    made.append(shown(builder, page("r4", 0)))
    features = [p.features for p in made]
    assert features[0] == features[1]
    assert len(set(features[1:])) == 4


def test_partitions_close_their_windows_apart() -> None:
    """What happens in one partition closes no window of another, as in the joiner."""
    spec = tiny_spec("eager")
    builder = FeatureBuilder(spec, 2)
    u, v = next((u, v) for u in "uvwxyz" for v in "uvwxyz" if partition_of(u, 2) < partition_of(v, 2))
    builder.process(page("r0", 0, user=u))
    assert builder.process(page("r1", 60_000, user=v)).examples == []
    assert len(builder.process(tick(60_000)).examples) == 1


def test_a_page_with_features_keeps_them() -> None:
    """Features that a ranker logged go through unchanged; those of another spec are refused and change nothing."""
    builder = FeatureBuilder(tiny_spec(), 1)
    logged = shown(builder, page("r0", 0))
    again = FeatureBuilder(tiny_spec(), 1)
    assert again.process(logged).event == logged
    other = Impression("r1", START_MS, "u", ["a"], features=b"\x01" * 64)
    with pytest.raises(BadEvent, match="another spec"):
        again.process(other)
    assert [len(e.ids) for e in again.process(tick(9_000)).examples] == [1]


def test_a_page_that_outgrows_an_event_is_refused() -> None:
    """Features may take a page over the limit that the joiner keeps: it is refused here, with what to do."""
    builder = FeatureBuilder(tiny_spec(), 1)
    with pytest.raises(BadEvent, match="fewer items"):
        builder.process(Impression("r", START_MS, "u", [f"{i:040}" for i in range(1_000)]))


def test_equal_times_in_a_history_go_by_item() -> None:
    """As in the joiner's sorted sets: by time, then by item; an older install of an item it has changes nothing."""
    histories = Histories()
    for name, at_ms in (("b", 5), ("a", 5), ("c", 1), ("a", 3), ("c", 9)):
        histories.update(install("i", at_ms, name))
    assert histories.newest("u", 50) == ["a", "b", "c"]
    assert histories.newest("u", 2) == ["b", "c"]
    histories.update(install("i", 20, "b", retracted=True))
    assert histories.newest("u", 2) == ["a", "c"]
    assert histories.newest("nobody", 2) == []
