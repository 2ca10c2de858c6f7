"""Erasing a user from the join: nothing more is emitted of what came before; everybody else's labels stay."""

from dataclasses import replace
from pathlib import Path

import pytest

from stream.events.codec import decode_entity, decode_training, encode_record
from stream.events.topics import ERASED, EXAMPLES
from stream.events.topics import ORGANIC as ORGANIC_TOPIC
from stream.events.types import Erase, Examples, SourceEvent, Tick
from stream.joiner.join import Joiner, RestartPoint
from stream.joiner.metrics import Tally
from stream.joiner.poison_detector import PoisonDetector
from stream.joiner.record_events import to_record
from stream.joiner.record_processor import JoinerOptions, PartitionState, RecordProcessor
from stream.joiner.state_store import StateStore
from stream.log.protocol import Record
from stream.spec.parts import Policy
from tests.support.join_events import FAR, NOW, POLICIES, RULES, install, page, play, retraction, rows
from tests.support.plain_writer import written as written_by

ORGANIC = replace(RULES, organic=True)


@pytest.mark.parametrize("policy", POLICIES)
def test_open_pages_of_an_erased_user_lead_to_no_label(policy: Policy) -> None:
    """Neither when the window closes nor when an install names the page; other users' pages do as ever."""
    delays_ms = (5, 9) if policy == "delayed_negative" else ()
    rules = replace(RULES, policy=policy, delays_ms=delays_ms)
    others: list[SourceEvent] = [page("s", 101, user="v"), install("j", 103, user="v")]
    erased = [page("r", 100), *others, Erase("u", 104), install("i", 105, request_id="r"), FAR]
    found = [row for row in play(rules, *erased) if row[0] != "r" or policy != "fake_negative"]
    assert found == play(rules, *others, FAR)


def test_a_pending_install_of_an_erased_user_is_neither_organic_nor_claimed() -> None:
    """It waits for its page when its user is erased: it is nobody's then."""
    joiner = Joiner(ORGANIC)
    joiner.feed([install("i", 100), install("j", 100, user="v")], 0, NOW)
    assert joiner.feed([Erase("u", 101), page("r", 99)], 1, NOW) == []
    said = joiner.feed([FAR], 2, NOW)
    assert rows(said) == [("r", 0, 0, 1), ("r", 1, 0, 1)], "the page came later: as one of a new user"
    assert [one.user for one in joiner.organic] == ["v"]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_emitted_just_before_an_erasure_is_whole(policy: Policy) -> None:
    """Labels, history and organic installs of the same record, or of records that are joined together with it."""
    delays_ms = (5, 9) if policy == "delayed_negative" else ()
    rules = replace(ORGANIC, policy=policy, delays_ms=delays_ms)
    before: list[SourceEvent] = [page("r", 100), install("i", 101, request_id="r"), install("j", 101, "z")]
    events: list[SourceEvent] = [*before, page("s", 102, user="v"), Erase("u", 103), install("k", 104), Erase("u", 105)]
    partitions = {EXAMPLES.name: 1, ORGANIC_TOPIC.name: 1, ERASED.name: 1, "events": 1, "histories": 1}
    found = []
    for cut in (1, len(events)):
        records = [Record("events", 0, k, NOW, None, encode_record([event])) for k, event in enumerate(events)]
        processor = RecordProcessor(JoinerOptions(), partitions, None, Tally())
        state = PartitionState(Joiner(rules), 0, 0, PoisonDetector(60.0))
        parts = [records[first : first + cut] for first in range(0, len(records), cut)]
        written = [out for part in parts for out in written_by(processor, state, part, partitions)]
        found.append(sorted(written, key=lambda out: out.topic))  # stable: each topic's order stays
    assert found[0] == found[1]
    one_by_one = Joiner(rules)
    wanted = [row for k, event in enumerate(events) for row in rows(one_by_one.feed([event], k, NOW))]
    assert sorted(rows(Joiner(rules).feed(events, 0, NOW))) == sorted(wanted)


def test_who_comes_back_is_new() -> None:
    """Pages and installs after the erasure are joined as those of anyone, also under ids that were used before."""
    back: list[SourceEvent] = [page("q", 110), install("i", 112), FAR]
    assert play(RULES, page("r", 100), install("i", 101), Erase("u", 105), *back)[-2:] == play(RULES, *back)
    joiner = Joiner(ORGANIC)
    joiner.feed([install("i", 100)], 0, NOW)
    output = joiner.join_record(to_record([Erase("u", 105), install("i", 108), retraction("i", 109)]), 1, NOW)
    assert [change.time_ms for change in output.history_changes] == [108, None]


def test_what_was_emitted_before_an_erasure_stays() -> None:
    """Labels, organic installs and changes of histories of the same record: they are read from the state, which then
    has nothing of the user any more.
    """
    rules = replace(ORGANIC, early_ms=1)
    before: list[SourceEvent] = [
        install("z", 100),
        page("r", 101),
        install("i", 102, request_id="r"),
        page("s", 150, user="v"),
    ]
    wanted = Joiner(rules).join_record(to_record([*before, Tick(151)]), 0, NOW)
    found = Joiner(rules).join_record(to_record([*before, Erase("u", 151), Tick(151)]), 0, NOW)
    assert found.labels == wanted.labels
    assert (found.organic, found.history_changes) == (wanted.organic, wanted.history_changes)
    assert ([one.user for one in found.organic[0]], len(found.history_changes)) == (["u"], 2)
    assert [one.user for one in found.erased[0]] == ["u"]


def test_an_erasure_does_not_advance_event_time() -> None:
    """It is sent now, whatever time the log's events are of: no window closes because of it."""
    joiner = Joiner(RULES)
    joiner.feed([page("r", 100)], 0, NOW)
    assert joiner.feed([Erase("v", 90_000)], 1, NOW) == []
    assert rows(joiner.feed([install("i", 105)], 2, NOW)) == [("r", 0, 1, 0)]


def test_a_saved_state_has_nothing_of_an_erased_user(tmp_path: Path) -> None:
    """Pages that were on disk already are written again: no hash of the user, no id in the installs."""
    joiner, store = Joiner(ORGANIC), StateStore(tmp_path, "us")
    events = [page(f"r{k}", 100 + k % 7, user=f"user-{k % 3}") for k in range(300)]
    installs = [install(f"install-{k}", 108, "z", user=f"user-{k % 3}") for k in range(30)]
    joiner.feed([*events, *installs], 0, NOW)
    for offset in (1, 2):
        capture = store.capture(joiner.state, offset)
        store.write(capture)
        store.release_chunks(joiner.state, capture)
        if offset == 1:
            joiner.feed([Erase("user-1", 109)], 1, NOW)
    files = b"".join(file.read_bytes() for file in sorted(tmp_path.iterdir()))
    user_hash = int(to_record([Erase("user-1", 1)]).columns[0, 7])
    assert (b"user-0" in files, b"user-1" in files) == (True, False)
    assert user_hash.to_bytes(8, "little", signed=True) not in files
    loaded = store.load(ORGANIC, 0, 10)
    assert loaded is not None
    resumed = Joiner(ORGANIC, RestartPoint(0, 0, 0), loaded[0])
    found, wanted = (one.join_record(to_record([FAR]), 2, NOW) for one in (resumed, joiner))
    assert (found.labels, found.organic) == (wanted.labels, wanted.organic)
    assert {one.user for one in found.organic[0]} == {"user-0", "user-2"}
    assert len(found.labels) == 200


def test_an_erasure_goes_on_to_the_learner_and_into_the_ledger() -> None:
    """Behind the labels of the records before it, before those after it; what is read again silently writes nothing."""
    partitions = {EXAMPLES.name: 1, ERASED.name: 1, "events": 1, "histories": 1}
    processor = RecordProcessor(JoinerOptions(), partitions, None, Tally())
    before: list[SourceEvent] = [page("r", 100, user="v"), install("i", 101, user="v")]
    events: list[list[SourceEvent]] = [before, [Erase("u", 101)], [install("j", 102, "b", user="v")]]
    records = [Record("events", 0, k, NOW, None, encode_record(some)) for k, some in enumerate(events)]
    for emit_from, size in ((0, 4), (9, 0)):
        state = PartitionState(Joiner(RULES), 0, emit_from, PoisonDetector(60.0))
        written = [out for out in written_by(processor, state, records, partitions) if out.topic != "histories"]
        assert len(written) == size
        if not emit_from:
            learned = [decode_training(out.value or b"")[0][0] for out in written if out.topic == EXAMPLES.name]
            assert [type(one) for one in learned] == [Examples, Erase, Examples]
            (ledger,) = [out for out in written if out.topic == ERASED.name]
            assert (ledger.key, decode_entity(ledger.value or b"", Erase)) == (b"u\x00101", Erase("u", 101))
