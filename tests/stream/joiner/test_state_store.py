"""A join's state in files: who is loaded goes on as who was never stopped; what isn't whole, or isn't ours, is left."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stream.events.types import Impression, Install, Organic, SourceEvent
from stream.joiner.join import Joiner, RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.joiner.record_events import to_record
from stream.joiner.state_store import PAGES_FILE, STATE_FILE, StateStore
from stream.spec.parts import Policy

RULES = LabelRules("eager", window_ms=20_000, lateness_ms=50, known_ms=3_000, organic=True)
T = 1_700_000_000_000
CAME = T + 10**8
RECORDS = 1_500
ITEMS = "abcdefghijkl"


def stream_of(seed: int) -> Iterator[list[SourceEvent]]:
    """Records of pages, installs and retractions of few users, in which time goes on; some pages are extended."""
    rng, now = random.Random(seed), T
    for k in range(RECORDS):
        record: list[SourceEvent] = []
        for n in range(rng.randrange(1, 6)):
            now += rng.randrange(30)
            user, kind = f"u{rng.randrange(50)}", rng.random()
            if kind < 0.6:
                name = f"r{k}-{n}" if rng.random() < 0.9 else f"r{k - 1}-0"
                record.append(Impression(name, now - rng.randrange(40), user, rng.sample(ITEMS, 4)))
            elif kind < 0.9:
                record.append(Install(user, rng.choice(ITEMS), now - rng.randrange(100), f"i{k}-{n}"))
            else:
                record.append(Install(user, "a", now, f"i{k - 1}-{n}", retracted=True))
        yield record


def said(joiner: Joiner, record: list[SourceEvent], offset: int) -> tuple[list[tuple[object, ...]], list[Organic]]:
    """All that is emitted of a record, in a form that can be compared."""
    part = joiner.join_record(to_record(record), offset, CAME)
    labels = part.labels
    return [(*page, labels.rows.get(k)) for k, page in enumerate(labels.pages)], part.organic[0]


@pytest.mark.parametrize("policy", ["wait", "eager", "fake_negative", "delayed_negative"])
@pytest.mark.parametrize("seed", [1, 2])
def test_who_is_loaded_goes_on_as_who_was_never_stopped(tmp_path: Path, policy: Policy, seed: int) -> None:
    """Saved now and then, loaded from the last save: the same labels, organic installs, memory and commits."""
    delays_ms = (500, 9_000, 15_000) if policy == "delayed_negative" else ()
    rules = replace(RULES, policy=policy, delays_ms=delays_ms)
    records = list(stream_of(seed))
    joiner, store = Joiner(rules), StateStore(tmp_path / "0", "us")
    wanted = []
    for offset, record in enumerate(records):
        wanted.append(said(joiner, record, offset))
        if offset % 100 == 99 and offset < 1_000:
            capture = store.capture(joiner.state, offset + 1)
            store.write(capture)
            store.release_chunks(joiner.state, capture)
    found = StateStore(tmp_path / "0", "us").load(rules, 0, RECORDS)
    assert found is not None
    state, following = found
    assert following == 1_000
    loaded = Joiner(rules, RestartPoint(0, 0, 0), state)
    for offset in range(following, RECORDS):
        assert said(loaded, records[offset], offset) == wanted[offset]
    assert loaded.restart_point(RECORDS) == joiner.restart_point(RECORDS)
    assert (loaded.state_bytes, loaded.open_pages) == (joiner.state_bytes, joiner.open_pages)
    assert joiner.open_pages > 100


def test_a_state_that_goes_on_from_its_files_can_be_saved_again(tmp_path: Path) -> None:
    """A second process saves what the first one saved and what came since: a third goes on from that."""
    records = list(stream_of(3))
    whole, folder = Joiner(RULES), tmp_path / "0"
    for offset in range(900):
        said(whole, records[offset], offset)
    at = 0
    for end in (300, 600, 900):
        store = StateStore(folder, "us")
        found = store.load(RULES, 0, RECORDS)
        joiner = Joiner(RULES) if found is None else Joiner(RULES, RestartPoint(0, 0, 0), found[0])
        assert at == (0 if found is None else found[1])
        for offset in range(at, end):
            said(joiner, records[offset], offset)
        capture = store.capture(joiner.state, end)
        store.write(capture)
        store.release_chunks(joiner.state, capture)
        at = end
    assert joiner.restart_point(900) == whole.restart_point(900)
    assert said(joiner, records[900], 900) == said(whole, records[900], 900)


def test_what_is_not_whole_or_not_ours_is_left(tmp_path: Path) -> None:
    """Another author's state, one that goes too far or not far enough, and broken files: none is loaded."""
    joiner, store = Joiner(RULES), StateStore(tmp_path, "us")
    assert store.load(RULES, 0, RECORDS) is None
    for offset, record in enumerate(stream_of(4)):
        said(joiner, record, offset)
    store.write(store.capture(joiner.state, RECORDS))
    assert StateStore(tmp_path, "others").load(RULES, 0, RECORDS) is None
    assert store.load(RULES, 0, RECORDS - 1) is None
    assert store.load(RULES, RECORDS + 1, RECORDS + 9) is None
    assert store.load(RULES, 0, RECORDS) is not None
    state = (tmp_path / STATE_FILE).read_bytes()
    (tmp_path / STATE_FILE).write_bytes(state[:-9])
    assert store.load(RULES, 0, RECORDS) is None
    (tmp_path / STATE_FILE).write_bytes(state)
    (tmp_path / PAGES_FILE).write_bytes(b"")
    assert store.load(RULES, 0, RECORDS) is None


def test_a_save_that_was_not_finished_leaves_the_one_before(tmp_path: Path) -> None:
    """Killed after pages were written and before the rest: chunks that the older state names weren't used again."""
    records, short = list(stream_of(5)), replace(RULES, window_ms=300, known_ms=0)
    joiner, store = Joiner(short), StateStore(tmp_path, "us")
    for offset in range(700):
        said(joiner, records[offset], offset)
    first = store.capture(joiner.state, 700)
    store.write(first)
    store.release_chunks(joiner.state, first)
    for offset in range(700, RECORDS):
        said(joiner, records[offset], offset)
    before = (tmp_path / STATE_FILE).read_bytes()
    store.write(store.capture(joiner.state, RECORDS))
    (tmp_path / STATE_FILE).write_bytes(before)
    found = StateStore(tmp_path, "us").load(short, 0, RECORDS)
    assert found is not None
    assert found[1] == 700
    loaded, again = Joiner(short, RestartPoint(0, 0, 0), found[0]), Joiner(short)
    for offset in range(700):
        said(again, records[offset], offset)
    for offset in range(700, RECORDS):
        assert said(loaded, records[offset], offset) == said(again, records[offset], offset)
