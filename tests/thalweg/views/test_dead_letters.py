"""Dead letters: counted once, shown, and sent back without doubling anything."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stream.events import codec as events_module
from stream.events.codec import decode_events, decode_examples, encode, encode_record
from stream.events.topics import EVENTS, EVENTS_DLQ, EXAMPLES, EXAMPLES_DLQ, ITEMS, ITEMS_DLQ, TOPICS
from stream.events.types import EVENT_BYTES_MAX, DeadLetter, Erase, Examples, Impression, Install, Item, Tick
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.output_records import ledger_record
from stream.log.dead_letters import dead_letter, decode_prefix
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.log_scan import read_range
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, Log, Record
from stream.runtime.errors import DataError
from stream.runtime.settings import Settings
from tests.support.join_oracle import net_of
from tests.support.joined_streams import RULES, Stream, T
from thalweg.cli.main import app
from thalweg.stack.stack import Stack
from thalweg.views.dead_letters import (
    DeadLetterRecord,
    ReplayCounts,
    as_record,
    hex_dump,
    read_dead_letters,
    replay,
    select,
    without_erased,
)
from thalweg.views.operations_tables import dead_letter_lines


def records(log: Log, topic: str) -> list[Record]:
    """Everything in a topic."""
    ends = log.ends(topic)
    return list(read_range(log, topic, dict.fromkeys(ends, START), ends))


def said(log: Log) -> list[Examples]:
    """Everything in `examples`."""
    return [one for record in records(log, EXAMPLES.name) for one in decode_examples(record.value or b"")[0]]


def bury(log: MemoryLog, *letters: tuple[bytes, str, Record]) -> None:
    """Write letters as the rooms do."""
    for raw, why, source in letters:
        made = dead_letter(raw, "BadEvent", why, source)
        log.send(made.topic, made.partition, made.value, made.key)


def only(letters: Sequence[DeadLetterRecord]) -> DeadLetterRecord:
    """The one that there is."""
    (letter,) = letters
    return letter


def test_dead_letters_of_an_erased_user_are_left_out() -> None:
    """As far as their bytes name one, in events of every kind; those written later, and an erasure's own, are shown."""
    now = [5]
    log = MemoryLog({topic.name: 1 for topic in TOPICS}, lambda: now[0])
    source, examples = Record(EVENTS.name, 0, 7, T, None, b""), Record(EXAMPLES.name, 0, 7, T, None, b"")
    shown = Impression("r", T, "ann", ["i"])
    erased = [encode(shown), encode(Install("ann", "i", T, "1"))[:-1], encode_record([shown])]
    kept = [encode(Install("bob", "i", T, "1")), b"\xc1", b"ann", b"\x92\x02\x05", encode(Erase("ann", 6))]
    bury(log, *[(raw, "why", source) for raw in (*erased, *kept)])
    bury(log, (encode(Examples(shown, [1], [0], [1], [1.0], [0], [T])), "why", examples))
    assert len(without_erased(log, read_dead_letters(log, EVENTS.name))) == len(erased) + len(kept)
    log.send(*ledger_record(Erase("ann", 6)))
    now[0] = 7
    bury(log, (encode(Install("ann", "j", T, "2")), "why", source))
    found = without_erased(log, read_dead_letters(log, EVENTS.name))
    assert [one.dead_letter.original for one in found] == [*kept, encode(Install("ann", "j", T, "2"))]
    assert without_erased(log, read_dead_letters(log, EXAMPLES.name)) == []


def test_a_letter_that_was_written_twice_is_one() -> None:
    """The same bytes of the same place are one letter; other bytes, or another place, another one."""
    log = Stream().log
    here, there = (Record(EVENTS.name, 1, offset, T, None, b"") for offset in (7, 8))
    bury(log, (b"\xc1", "why", here), (b"\xc1", "why", here), (b"\xc1\xc1", "why", here), (b"\xc1", "why", there))
    found = read_dead_letters(log, EVENTS.name)
    assert [(one.number, one.dead_letter.offset, one.dead_letter.original) for one in found] == [
        (0, 7, b"\xc1"), (2, 7, b"\xc1\xc1"), (3, 8, b"\xc1"),
    ]  # fmt: skip


def test_what_was_too_large_is_taken_in_after_the_limit_was_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page that broke a limit gives its examples after the fix and a replay; a second replay sends nothing."""
    monkeypatch.setattr(events_module, "EVENT_BYTES_MAX", EVENT_BYTES_MAX // 2)
    stream = Stream(now_ms=T)
    large = Impression("large", T, "u", ["a", "b"], features=bytes(EVENT_BYTES_MAX // 2))
    stream.send(Impression("small", T, "u", ["a"]), large, Install("u", "b", T + 10, "i", "large"))
    stream.join()
    assert only(read_dead_letters(stream.log, EVENTS.name)).dead_letter.original == encode(large)
    monkeypatch.setattr(events_module, "EVENT_BYTES_MAX", EVENT_BYTES_MAX)
    letters = read_dead_letters(stream.log, EVENTS.name)
    assert replay(stream.log, letters, dry_run=True) == ReplayCounts(sent=1)
    assert read_dead_letters(stream.log, EVENTS.name) == letters, "a dry run changes nothing"
    assert replay(stream.log, letters) == ReplayCounts(sent=1)
    assert replay(stream.log, read_dead_letters(stream.log, EVENTS.name)) == ReplayCounts(before=1)
    stream.now_ms = T + 10_000
    stream.tick(stream.now_ms)
    stream.join()
    assert net_of(said(stream.log)) == {("small", "a"): 0, ("large", "a"): 0, ("large", "b"): 1}
    ids = [example for one in said(stream.log) for example in one.ids]
    assert len(ids) == len(set(ids))
    assert replay(stream.log, read_dead_letters(stream.log, EVENTS.name)) == ReplayCounts(before=1)


def test_events_that_were_written_without_their_list_are_taken_in_by_a_replay() -> None:
    """A producer that writes an event where a list of events belongs: one letter each, whole, which says so."""
    stream = Stream(now_ms=T)
    page, install = Impression("r", T, "u", ["a", "b"], scores=[1.0, 2.0]), Install("u", "b", T + 10, "i")
    for event in (page, install):
        stream.log.send(EVENTS.name, 1, encode(event))
    stream.join()
    letters = read_dead_letters(stream.log, EVENTS.name)
    assert [one.dead_letter.original for one in letters] == [encode(page), encode(install)]
    assert all("a list of events" in one.dead_letter.message for one in letters)
    assert replay(stream.log, letters) == ReplayCounts(sent=2)
    stream.now_ms = T + 10_000
    stream.tick(stream.now_ms)
    stream.join()
    assert net_of(said(stream.log)) == {("r", "a"): 0, ("r", "b"): 1}


def test_a_replay_that_was_cut_off_doubles_nothing() -> None:
    """Sent, but not noted: the next replay sends it again, and the joiner takes it for the repetition that it is."""
    stream = Stream(now_ms=T)
    page = Impression("r", T + 100_000, "u", ["a"])
    stream.send(page)
    stream.join()
    letter = only(read_dead_letters(stream.log, EVENTS.name))
    assert letter.dead_letter.error == "FromTheFuture"
    stream.now_ms = T + 100_000
    stream.log.send(EVENTS.name, letter.dead_letter.partition, as_record(letter.dead_letter))  # and then it was killed
    assert replay(stream.log, read_dead_letters(stream.log, EVENTS.name)) == ReplayCounts(sent=1)
    stream.now_ms = T + 110_000
    stream.tick(stream.now_ms)
    stream.join()
    assert [(one.page, one.labels) for one in said(stream.log)] == [(page, [0])]


@pytest.mark.parametrize("rules", [RULES, replace(RULES, known_ms=10**9), replace(RULES, lateness_ms=10**9)])
def test_a_replayed_late_event_gives_no_label(rules: LabelRules) -> None:
    """What is final by the commit is never emitted again, not even by a joiner restarted with a longer `known`."""
    joiner = Joiner(RULES)
    page, install = Impression("late", T + 10, "u", ["b"]), Install("u", "a", T + 20, "i", "r")
    shown = joiner.feed([Impression("r", T, "u", ["a"]), Tick(T + 5_000)], 0, T + 5_000)
    assert [examples.labels for examples in shown] == [[0]]
    assert joiner.feed([page, install], 1, T + 5_001) == []
    assert joiner.counts.late == 2
    restarted = Joiner(rules, joiner.restart_point(2))
    assert restarted.feed([page, install], 2, T + 6_000) == []
    assert restarted.feed([Tick(T + 10**10)], 3, T + 10**10) == []
    assert restarted.counts.late == (0 if rules.known_ms > RULES.known_ms else 2)


def test_what_is_still_bad_comes_back_as_another_letter() -> None:
    """A replay before the fix loses nothing: the joiner writes a new letter, which can be sent later."""
    stream = Stream(now_ms=T)
    stream.log.send(EVENTS.name, 1, b"\xc1")
    for k in range(2):
        stream.join()
        letters = read_dead_letters(stream.log, EVENTS.name)
        assert [bool(one.replayed_ms) for one in letters] == [True] * k + [False]
        assert replay(stream.log, letters) == ReplayCounts(sent=1, before=k)


def test_a_single_event_is_sent_as_a_record() -> None:
    """Letters hold a record, or one event of it; what is sent back is always a record."""
    page, install = Impression("r", T, "u", ["a"]), Install("u", "a", T, "i")
    for raw in (encode(page), encode_record([page])):
        sent = as_record(DeadLetter(raw, "BadEvent", "", EVENTS.name, 0, 0))
        assert decode_events(sent) == ([page], [])
    both = encode_record([page, install])
    assert as_record(DeadLetter(both, "BadEvent", "", EVENTS.name, 0, 0)) == both
    many = encode_record([install] * 20)
    assert as_record(DeadLetter(many, "BadEvent", "", EVENTS.name, 0, 0)) == many
    item = encode(Item("a"))
    assert as_record(DeadLetter(item, "BadEvent", "", ITEMS.name, 0, 0)) == item


@given(st.binary(max_size=30))
def test_bytes_that_are_no_list_are_sent_as_they_are(raw: bytes) -> None:
    """Nothing is added to what isn't an event, and nothing is ever taken away."""
    sent = as_record(DeadLetter(raw, "BadEvent", "", EVENTS.name, 0, 0))
    assert sent in (raw, b"\x91" + raw)
    values, rest = decode_prefix(raw)
    assert raw.endswith(rest)
    assert values or len(raw) - len(rest) <= 5, "all but the head of a list is shown"
    assert list(dead_letter_lines(DeadLetterRecord(0, T, DeadLetter(raw, "BadEvent", "", EVENTS.name, 0, 0))))


def test_a_cut_original_is_not_sent() -> None:
    """A letter that couldn't hold all bytes is left out, and said."""
    log = Stream().log
    bury(log, (bytes(3 * 1024 * 1024), "too large", Record(EVENTS.name, 0, 0, T, None, b"")))
    assert replay(log, read_dead_letters(log, EVENTS.name)) == ReplayCounts(cut=1)
    assert records(log, EVENTS.name) == []


def test_an_old_item_does_not_replace_a_newer_one() -> None:
    """Of a compacted topic only what is still the newest of its key is sent back, under its key."""
    log = MemoryLog({ITEMS.name: 2, ITEMS_DLQ.name: 1}, lambda: T)
    for key, value in ((b"a", b"\xc1 a"), (b"b", b"\xc1 b"), (b"b", encode(Item("b"))), (b"gone", b"\xc1")):
        log.send(ITEMS.name, 1, value, key)
    bury(log, *((r.value or b"", "why", r) for r in records(log, ITEMS.name) if (r.value or b"")[:1] == b"\xc1"))
    assert len(read_dead_letters(log, ITEMS.name)) == 3
    log.send(ITEMS.name, 1, None, b"gone")
    assert replay(log, read_dead_letters(log, ITEMS.name)) == ReplayCounts(sent=1, superseded=2)
    assert [(r.key, r.value) for r in records(log, ITEMS.name)[5:]] == [(b"a", b"\xc1 a")]
    assert replay(log, read_dead_letters(log, ITEMS.name)) == ReplayCounts(before=1, superseded=2)


def test_letters_are_chosen_by_reason_and_number() -> None:
    """A part of the reason in any case; numbers inclusive."""
    held = DeadLetter(b"", "FromTheFuture", "event time 5", EVENTS.name, 0, 0)
    letters = [DeadLetterRecord(n, T, held) for n in range(5)]
    assert [one.number for one in select(letters, "fromthefuture", 1, 3)] == [1, 2, 3]
    assert select(letters, "undecodable") == []
    assert letters[0].kind == DeadLetterRecord(0, T, msgspec.structs.replace(held, message="event time 77")).kind


def test_a_record_that_is_no_letter_is_passed_over() -> None:
    """What others have written into a topic of dead letters doesn't keep the letters from being read."""
    log = Stream().log
    log.send(EVENTS_DLQ.name, 0, b"\xc1")
    bury(log, (b"\xc1", "why", Record(EVENTS.name, 0, 0, T, None, b"")))
    assert only(read_dead_letters(log, EVENTS.name)).number == 1
    with pytest.raises(DataError, match=r"topics that have: events, examples"):
        read_dead_letters(log, "rank.replies")


def test_a_broken_event_is_decoded_as_far_as_it_goes() -> None:
    """The good values are shown as JSON, the bytes from the first broken one on in hex."""
    raw = encode(Install("ann", "chess", T, "i7"))
    letter = DeadLetterRecord(3, T, DeadLetter(raw[:-5] + b"\xc1" + raw[-4:], "BadEvent", "broken", EVENTS.name, 2, 9))
    assert decode_prefix(letter.dead_letter.original) == ([2, "ann", "chess", T], b"\xc1" + raw[-4:])
    lines = list(dead_letter_lines(letter))
    assert '  "chess"' in lines
    assert any("events 2:9" in line for line in lines)
    assert lines[-1].endswith("c1 69 37 a0 c2" + " " * 35 + ".i7..")
    assert hex_dump(bytes(600))[-1].startswith("... 88 bytes more")


@pytest.fixture
def kafka(stack: Stack, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """The command line's settings, with all topics."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix, local=tmp_path, partitions=2)
    for name in ("kafka", "topic_prefix", "local", "partitions"):
        monkeypatch.setenv(f"THALWEG_{name.upper()}", str(getattr(settings, name)))
    apply_topics(settings, plan_topics(settings))
    return settings


def test_the_commands_list_show_and_replay(kafka: Settings, tmp_path: Path) -> None:
    """`ls` counts by source and reason, `show` tells one, `replay` sends each once, on real Kafka."""
    log = KafkaLog(kafka)
    install = Install("ann", "chess", T, "i7")
    for topic, raw, why in (
        (EVENTS, encode(install), "limit"),
        (EVENTS, b"\xc1\x02", "no list"),
        (EXAMPLES, b"x", "no"),
    ):
        made = dead_letter(raw, "BadEvent", why, Record(topic.name, 0, 5, T, None, b""))
        log.send(made.topic, made.partition, made.value, made.key)
    log.flush()
    run = CliRunner().invoke
    report = tmp_path / "report.json"
    listed = run(app, ["dlq", "ls", "--json", str(report)])
    assert listed.exit_code == 0, listed.output
    assert "BadEvent: no list" in listed.stdout
    assert json.loads(report.read_text())["events"] == 2
    shown = run(app, ["dlq", "show", "0", "--raw", str(tmp_path / "raw")])
    assert '"chess"' in shown.stdout
    assert (tmp_path / "raw").read_bytes() == encode(install)
    assert "c1 02" in run(app, ["dlq", "show", "1"]).stdout
    assert run(app, ["dlq", "show", "9"]).exit_code == 1
    assert run(app, ["dlq", "replay", "--from", "1"]).exit_code == 1
    sent = []
    for words in (["--reason", "LIMIT", "--dry-run"], ["--reason", "LIMIT"], ["--topic", "events"], []):
        assert run(app, ["dlq", "replay", *words, "--json", str(report)]).exit_code == 0
        sent.append(json.loads(report.read_text())["sent"])
    assert sent == [1, 1, 1, 1]
    assert [decode_events(r.value or b"")[0] for r in records(log, EVENTS.name)] == [[install], []]
    assert len(records(log, EXAMPLES.name)) == 1
    assert len(records(log, EXAMPLES_DLQ.name)) == 2
    assert json.loads(report.read_text()) == {"sent": 1, "cut": 0, "superseded": 0, "before": 2}
    log.close()
