"""Which items were shown: remembered within bounds, through restarts, and published."""

from itertools import pairwise

from learner.checkpoints.checkpoint import Checkpoint, restore, take
from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from learner.training.shown_items import GENERATION_MAX, GENERATION_MS, ShownItems
from stream.events.types import ID_BYTES_MAX
from stream.snapshots.item_names import ITEMS_MAX, ITEMS_PART, pack_names, unpack_names
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import pack
from stream.snapshots.store import fetch
from tests.support.learner_world import records, small_spec


def test_what_was_shown_lately_is_known() -> None:
    """However many items there are, the last 5,000 are known and never more than twice as many and a page."""
    shown = ShownItems()
    for page in range(300):
        shown.add([f"i{100 * page + n}" for n in range(100)], page + 1)
        assert len(shown.names) <= min(2 * GENERATION_MAX + 100, ITEMS_MAX)
        assert {f"i{n}" for n in range(max(0, 100 * page + 100 - GENERATION_MAX), 100 * page + 100)} <= shown.names
    assert "i0" not in shown.names


def test_what_is_shown_again_stays_known() -> None:
    """An item that pages go on to show isn't forgotten, whatever else they show."""
    shown = ShownItems()
    for page in range(300):
        shown.add(["always", *(f"i{100 * page + n}" for n in range(100))], page + 1)
    assert "always" in shown.names


def test_what_was_not_shown_for_a_week_is_forgotten() -> None:
    """By event time, so that an item that was taken back is forgotten before its tombstone is; not within 84 hours."""
    shown, hour_ms = ShownItems(), 3_600_000
    shown.add(["old"], 1)
    known = []
    for hour in range(7 * 24 + 3):
        shown.add(["new"], 2 + hour * hour_ms)
        known.append("old" in shown.names)
    assert all(known[:84])
    assert not known[-1]


def test_names_that_no_event_may_have_are_left_out() -> None:
    """An earlier build published longer ids than events may have now: a reader drops them and keeps the others."""
    longest = "ü" * (ID_BYTES_MAX // 2)
    assert unpack_names(pack_names([longest, "a", longest + "b"])) == ("a", longest)


def test_it_says_when_names_have_changed() -> None:
    """At first, and when a name came or a generation went; not when what is known is shown again."""
    shown, said = ShownItems(), []
    for items, time_ms in (["a"], 1), (["a"], 2), (["a", "b"], 3), (["b"], 4), (["b"], 5 + GENERATION_MS):
        shown.add(items, time_ms)
        said.append(shown.changed)
        shown.changed = False
    assert said == [True, False, True, False, True]


def test_a_version_names_the_items_on_learned_pages() -> None:
    """All that pages showed; they go out again with the deep part, and only when there are others."""
    spec = small_spec()
    model, store = Model(spec), MemoryStore("small")
    builder, bases, known = VersionBuilder(model), list[str](), list[int]()
    for offset, record in enumerate([*records(spec, 60), *records(spec, 12, seed=1)]):
        model.learn(record, offset)
        cut = builder.build(offset + 1, offset, 1, offset + 1, 0, {}, deep=offset % 4 == 3)
        store.put_blobs(cut.blobs)
        bases += cut.manifest.parts[ITEMS_PART].base
        known.append(len(unpack_names(fetch(store, [bases[-1]]))))
    assert set(unpack_names(fetch(store, [bases[-1]]))) == {f"i{n}" for n in range(30)}
    assert known == sorted(known)
    assert all(before == after for n, (before, after) in enumerate(pairwise(bases)) if n % 4 != 2)
    assert bases[-5:] == bases[-5:-4] * 5, "nothing new was shown"


def test_a_page_that_cant_be_taken_shows_nothing() -> None:
    """What becomes a dead letter isn't known afterwards."""
    spec = small_spec()
    (one,) = records(spec, 1)
    bad = [type(page)(**{**{f: getattr(page, f) for f in page.__struct_fields__}, "labels": [9] * 3}) for page in one]
    model = Model(spec)
    model.learn(bad, 0)
    assert len(model.rejected) == 1
    assert model.shown.names == set()


def test_a_restart_knows_what_was_shown() -> None:
    """A model that was restored goes on with the same names, bit by bit; earlier builds' checkpoints have none."""
    spec = small_spec()
    log = records(spec, 40)
    whole, half = Model(spec), Model(spec)
    for offset, record in enumerate(log):
        whole.learn(record, offset)
        if offset < 7:
            half.learn(record, offset)
    half.shown.add(["older"], 0)
    half.shown.old.add("much older")
    taken = take(half, 7, 0, 0)
    again = restore(spec, taken)
    assert (again.shown.young, again.shown.old) == (half.shown.young, {"much older"})
    assert again.shown.since_ms == half.shown.since_ms
    for offset, record in enumerate(log[7:], 7):
        again.learn(record, offset)
    assert again.shown.young == whole.shown.young | {"older"}
    earlier = {name: array for name, array in taken.arrays.items() if not name.startswith("shown_")}
    first = restore(spec, Checkpoint(taken.meta, earlier))
    assert first.shown.names == set()
    assert first.examples == half.examples


def test_names_have_one_form() -> None:
    """Whatever order names came in, versions and checkpoints hold the same bytes."""
    one, other = ShownItems(), ShownItems()
    one.add(["a", "b", "c"], 1)
    other.add(["c", "a", "b"], 1)
    assert pack(pack_names(one.names)) == pack(pack_names(other.names))
