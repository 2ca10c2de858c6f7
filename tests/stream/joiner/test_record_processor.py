"""One record through the join: what is written, the alarm of full memory, and the end of a poisoned source."""

import logging

import pytest

from stream.errors import Poisoned
from stream.events import (
    Examples,
    Impression,
    Install,
    Organic,
    SourceEvent,
    Tick,
    decode_examples,
    decode_organic,
    encode,
    encode_record,
)
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.metrics import Tally
from stream.joiner.output_records import EXAMPLES_BYTES_MAX, label_records
from stream.joiner.raw_impression import held
from stream.joiner.record_processor import POISON_MIN, PoisonWatch, RecordProcessor, ShellRules
from stream.log import Record, partition_of
from stream.topics import EVENTS, EXAMPLES, HISTORIES, ORGANIC
from tests.stream.joiner.plain import example_records

T = 1_700_000_000_000
CAME = T + 10_000
RULES = LabelRules("eager", window_ms=1_000, known_ms=1_000)
PARTITIONS = {EVENTS.name: 2, EXAMPLES.name: 1, HISTORIES.name: 2, ORGANIC.name: 2}


def page(k: int, size: int = 3, request_id: str = "", user: str = "u") -> Impression:
    """The k-th page, a millisecond after the one before."""
    return Impression(request_id or f"r{k}", T + k, user, [f"i{n}" for n in range(size)], features=bytes(40))


def record(*events: SourceEvent, raw: bytes | None = None, offset: int = 0) -> Record:
    """These events as a record that came at CAME."""
    return Record(EVENTS.name, 0, offset, CAME, None, encode_record(events) if raw is None else raw)


@pytest.mark.parametrize("size", [1, 2, 9, 10, 11, 99, 100, 101, 1_000])
@pytest.mark.parametrize("name", ["r", "request-17", "ü" * 20, "x" * 119, "x" * 400])
def test_pages_that_are_hashed_together_have_the_bytes_of_examples(size: int, name: str) -> None:
    """Whatever length and number: the bytes are those of encoded Examples, the ids those of `example_id`."""
    one, many = Joiner(RULES), Joiner(RULES)
    pages = [page(k, size, f"{name}{k}") for k in range(3)]
    events: list[SourceEvent] = [*pages, Install("u", "i0", T + 1, "i"), Tick(T + 5_000)]
    singly = [e for k, event in enumerate(events) for e in one.feed([event], k, CAME)]
    together = many.feed(events, 0, CAME)
    assert together == singly
    assert sum(len(e.ids) for e in together) == 3 * size
    told = RecordProcessor(ShellRules(), PARTITIONS, None, Tally()).take(Joiner(RULES), record(*events))
    examples = [out for out in told if out.topic == EXAMPLES.name]
    decoded: list[Examples] = [e for out in examples for e in decode_examples(out.value or b"")[0]]
    assert [e.ids for e in decoded] == [e.ids for e in together]
    assert [encode(e.page) for e in decoded] == [encode(e.page) for e in together]


def test_label_records_are_those_of_decoded_examples() -> None:
    """The quick way to write and the plain one give the same records."""
    events = [page(k, user=f"u{k}") for k in range(6)]
    joiner, plain = Joiner(RULES), Joiner(RULES)
    said = plain.feed([*events, Tick(T + 5_000)], 0, CAME)
    told = joiner.take(held([*events, Tick(T + 5_000)]), 0, CAME)
    for partitions in (1, 3):
        assert label_records(told, partitions) == example_records(said, partitions)
        assert label_records(told, partitions, bytes_max=400) == example_records(said, partitions, bytes_max=400)


def test_many_organic_installs_go_out_by_user_in_records_that_a_batch_can_hold() -> None:
    """However many are forgotten at once: each in its user's partition, in order, no record over the limit."""
    joiner = Joiner(LabelRules("eager", window_ms=1_000, known_ms=1_000, organic=True))
    turn = RecordProcessor(ShellRules(), PARTITIONS, None, Tally())
    installs = [Install(f"u{k % 4 + 2}", "x" * 3_000, T + k % 3, f"i{k:03}") for k in range(950)]
    for k in range(5):
        assert {out.topic for out in turn.take(joiner, record(*installs[k::5], offset=k))} == {HISTORIES.name}
    written = turn.take(joiner, record(Tick(T + 5_000), offset=5))
    assert ({out.topic for out in written}, len(written) > 4) == ({ORGANIC.name}, True)
    assert max(len(out.value or b"") for out in written) <= EXAMPLES_BYTES_MAX + 3
    told = [(out.partition, one) for out in written for one in decode_organic(out.value or b"")[0]]
    assert all(partition == partition_of(one.user, 2) for partition, one in told)
    assert sorted(one.install_id for _, one in told) == [one.install_id for one in installs]
    for partition in (0, 1):
        times = [one.time_ms for at, one in told if at == partition]
        assert times == sorted(times)
    assert told[0][1] == Organic(told[0][1].user, "x" * 3_000, T, told[0][1].install_id, "", CAME)
    assert turn.take(joiner, record(Tick(T + 6_000), offset=6)) == []


def test_full_memory_is_said_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Over its bytes a partition closes its oldest pages; a line says so with what to do, again at each doubling."""
    turn = RecordProcessor(ShellRules(), PARTITIONS, None, Tally())
    joiner = Joiner(LabelRules("eager", window_ms=10_000, known_ms=0, bytes_max=3_000))
    told = []
    with caplog.at_level(logging.ERROR):
        for k in range(40):
            told += turn.take(joiner, record(page(k), offset=k))
    assert 0 < joiner.counts.shed == len(told) == 40 - joiner.open_pages
    assert 2 <= len(caplog.records) <= 7
    assert "THALWEG_JOINER_MEMORY_MB" in caplog.text


def test_full_memory_of_one_partition_is_not_said_again_because_of_another(caplog: pytest.LogCaptureFixture) -> None:
    """Partitions that close pages in turn, each at its own number: every one says it at its own doublings."""
    turn = RecordProcessor(ShellRules(), PARTITIONS, None, Tally())
    joiners = [Joiner(LabelRules("eager", window_ms=10_000, known_ms=0, bytes_max=3_000)) for _ in range(2)]
    with caplog.at_level(logging.ERROR):
        for k in range(60):
            turn.take(joiners[0], record(page(k), offset=k))
        for k in range(60, 100):
            for partition, joiner in enumerate(joiners):
                turn.take(joiner, record(page(k), offset=k)._replace(partition=partition))
    most = max(joiner.counts.shed for joiner in joiners)
    assert 2 <= len(caplog.records) <= 2 * most.bit_length()


def test_nothing_but_poison_for_a_minute_ends_the_joiner() -> None:
    """It is the time and the number that count; one good event begins anew, 0 seconds means never."""
    now = [0.0]
    watch, never = PoisonWatch(60.0, lambda: now[0]), PoisonWatch(0.0, lambda: now[0])
    for _ in range(POISON_MIN):
        now[0] += 2.9
        watch.saw(good=False, bad=True)
    watch.saw(good=True, bad=True)
    for _ in range(POISON_MIN):
        now[0] += 3.1
        watch.saw(good=False, bad=True)
        never.saw(good=False, bad=True)
    now[0] += 60
    watch.saw(good=False, bad=False)
    with pytest.raises(Poisoned, match="THALWEG_JOINER_POISON_S"):
        watch.saw(good=False, bad=True)


def test_one_bad_event_costs_only_itself() -> None:
    """The pages of its record are joined all the same, and it becomes a dead letter with its bytes."""
    turn, joiner = RecordProcessor(ShellRules(), PARTITIONS, None, Tally()), Joiner(RULES)
    raw = b"\x93" + encode(page(0)) + b"\x92\x03\xa1x" + encode(page(1))
    (letter,) = turn.take(joiner, record(raw=raw))
    assert joiner.open_pages == 2
    assert letter.topic == "events.dlq"
    assert b"\x92\x03\xa1x" in (letter.value or b"")
