"""One record through the join: what is written, the alarm of full memory, and the end of a poisoned source."""

import logging

import pytest

from stream.events.codec import decode_entity, decode_examples, decode_organic, encode, encode_record
from stream.events.topics import EVENTS, EXAMPLES, HISTORIES, ORGANIC
from stream.events.types import DeadLetter, Examples, Impression, Install, Organic, SourceEvent, Tick
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import encode_examples, user_of
from stream.joiner.metrics import DEAD_LETTERS, Tally
from stream.joiner.output_records import RECORD_BYTES, pack_records
from stream.joiner.poison_detector import POISON_MIN, PoisonDetector
from stream.joiner.record_processor import JoinerOptions, PartitionState, RecordProcessor
from stream.log.dead_letters import Outgoing
from stream.log.protocol import Record, partition_of
from stream.runtime.errors import Poisoned
from tests.support.plain_writer import example_records, labelled, written

T = 1_700_000_000_000
CAME = T + 10_000
RULES = LabelRules("eager", window_ms=1_000, known_ms=1_000)
PARTITIONS = {EVENTS.name: 1, EXAMPLES.name: 1, HISTORIES.name: 2, ORGANIC.name: 2}


def page(k: int, size: int = 3, request_id: str = "", user: str = "u") -> Impression:
    """The k-th page, a millisecond after the one before."""
    return Impression(request_id or f"r{k}", T + k, user, [f"i{n}" for n in range(size)], features=bytes(40))


def record(*events: SourceEvent, raw: bytes | None = None, offset: int = 0) -> Record:
    """These events as a record that came at CAME."""
    return Record(EVENTS.name, 0, offset, CAME, None, encode_record(events) if raw is None else raw)


class Taker:
    """One partition that takes records one by one."""

    def __init__(self, rules: LabelRules, emit_from: int = 0, **shell: float) -> None:
        options = JoinerOptions(**shell)  # type: ignore[arg-type]
        self.processor = RecordProcessor(options, PARTITIONS, None, Tally())
        self.state = PartitionState(Joiner(rules), 0, emit_from, PoisonDetector(options.poison_s))

    def take(self, *records: Record) -> list[Outgoing]:
        """All that these lead to."""
        return written(self.processor, self.state, records, PARTITIONS)


@pytest.mark.parametrize("size", [1, 2, 9, 10, 11, 99, 100, 101, 1_000])
@pytest.mark.parametrize("name", ["r", "request-17", "ü" * 20, "x" * 119, "x" * 250])
def test_pages_that_are_hashed_together_have_the_bytes_of_examples(size: int, name: str) -> None:
    """Whatever length and number: the bytes are those of encoded Examples, the ids those of `example_id`."""
    one, many = Joiner(RULES), Joiner(RULES)
    pages = [page(k, size, f"{name}{k}") for k in range(3)]
    events: list[SourceEvent] = [*pages, Install("u", "i0", T + 1, "i"), Tick(T + 5_000)]
    singly = [e for k, event in enumerate(events) for e in one.feed([event], k, CAME)]
    together = many.feed(events, 0, CAME)
    assert together == singly
    assert sum(len(e.ids) for e in together) == 3 * size
    told = Taker(RULES).take(record(*events))
    examples = [out for out in told if out.topic == EXAMPLES.name]
    decoded: list[Examples] = [e for out in examples for e in decode_examples(out.value or b"")[0]]
    assert [e.ids for e in decoded] == [e.ids for e in together]
    assert [encode(e.page) for e in decoded] == [encode(e.page) for e in together]


def test_packed_records_are_those_of_decoded_examples() -> None:
    """The quick way to write and the plain one give the same records."""
    events = [page(k, user=f"u{k}") for k in range(6)]
    joiner, plain = Joiner(RULES), Joiner(RULES)
    said = plain.feed([*events, Tick(T + 5_000)], 0, CAME)
    batches, pages = labelled(joiner, [*events, Tick(T + 5_000)], 0, CAME)
    encoded, users = encode_examples(batches, pages), [*map(user_of, pages)]
    for partitions in (1, 3):
        assert pack_records(EXAMPLES.name, encoded, users, partitions) == example_records(said, partitions)
        found = pack_records(EXAMPLES.name, encoded, users, partitions, bytes_max=400)
        assert found == example_records(said, partitions, bytes_max=400)


def test_many_organic_installs_go_out_by_user_in_records_that_a_batch_can_hold() -> None:
    """However many are forgotten at once: each in its user's partition, in order, no record over the limit."""
    taker = Taker(LabelRules("eager", window_ms=1_000, known_ms=1_000, organic=True))
    installs = [Install(f"u{k % 4 + 2}", "x" * 256, T + k % 3, f"i{k:04}") for k in range(9_500)]
    for k in range(5):
        assert {out.topic for out in taker.take(record(*installs[k::5], offset=k))} == {HISTORIES.name}
    written = taker.take(record(Tick(T + 5_000), offset=5))
    assert ({out.topic for out in written}, len(written) > 4) == ({ORGANIC.name}, True)
    assert max(len(out.value or b"") for out in written) <= RECORD_BYTES + 3
    told = [(out.partition, one) for out in written for one in decode_organic(out.value or b"")[0]]
    assert all(partition == partition_of(one.user, 2) for partition, one in told)
    assert sorted(one.install_id for _, one in told) == [one.install_id for one in installs]
    for partition in (0, 1):
        times = [one.time_ms for at, one in told if at == partition]
        assert times == sorted(times)
    assert told[0][1] == Organic(told[0][1].user, "x" * 256, T, told[0][1].install_id, "", CAME)
    assert taker.take(record(Tick(T + 6_000), offset=6)) == []


def test_full_memory_is_said_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Over its bytes a partition closes its oldest pages; a line says so with what to do, again at each doubling."""
    taker = Taker(LabelRules("eager", window_ms=10_000, known_ms=0, bytes_max=700))
    joiner = taker.state.joiner
    told = []
    with caplog.at_level(logging.ERROR):
        for k in range(40):
            told += taker.take(record(page(k), offset=k))
    assert 0 < joiner.counts.shed == len(told) == 40 - joiner.open_pages
    assert 2 <= len(caplog.records) <= 7
    assert "THALWEG_JOINER_MEMORY_MB" in caplog.text


def test_full_memory_of_one_partition_is_not_said_again_because_of_another(caplog: pytest.LogCaptureFixture) -> None:
    """Partitions that close pages in turn, each at its own number: every one says it at its own doublings."""
    takers = [Taker(LabelRules("eager", window_ms=10_000, known_ms=0, bytes_max=700)) for _ in range(2)]
    with caplog.at_level(logging.ERROR):
        for k in range(60):
            takers[0].take(record(page(k), offset=k))
        for k in range(60, 100):
            for taker in takers:
                taker.take(record(page(k), offset=k))
    most = max(taker.state.joiner.counts.shed for taker in takers)
    assert 2 <= len(caplog.records) <= 2 * most.bit_length()


def test_nothing_but_poison_for_a_minute_ends_the_joiner() -> None:
    """It is the time and the number that count; one good event begins again, 0 seconds means never."""
    now = [0.0]
    watch, never = PoisonDetector(60.0, lambda: now[0]), PoisonDetector(0.0, lambda: now[0])
    for _ in range(POISON_MIN):
        now[0] += 2.9
        watch.observe(good=False, bad=True)
    watch.observe(good=True, bad=True)
    for _ in range(POISON_MIN):
        now[0] += 3.1
        watch.observe(good=False, bad=True)
        never.observe(good=False, bad=True)
    now[0] += 60
    watch.observe(good=False, bad=False)
    with pytest.raises(Poisoned, match="THALWEG_JOINER_POISON_S"):
        watch.observe(good=False, bad=True)


def test_one_bad_event_costs_only_itself() -> None:
    """The pages of its record are joined all the same, and it becomes a dead letter with its bytes."""
    taker = Taker(RULES)
    joiner = taker.state.joiner
    raw = b"\x93" + encode(page(0)) + b"\x92\x03\xa1x" + encode(page(1))
    (letter,) = taker.take(record(raw=raw))
    assert joiner.open_pages == 2
    assert letter.topic == "events.dlq"
    assert b"\x92\x03\xa1x" in (letter.value or b"")


def dead_letters(written: list[Outgoing]) -> list[DeadLetter]:
    """The dead letters among records."""
    return [decode_entity(out.value or b"", DeadLetter) for out in written if out.topic == "events.dlq"]


def test_a_late_event_becomes_a_dead_letter_that_says_how_late_it_is() -> None:
    """Pages and installs, each with its own bytes; they are counted, and what is in time goes on."""
    taker = Taker(RULES)
    taker.take(record(Tick(T + 5_000)))
    late: list[SourceEvent] = [page(0), Install("u", "i0", T + 2_900, "i")]
    found = dead_letters(taker.take(record(*late, page(4_500, request_id="in time"), offset=1)))
    assert [(letter.error, letter.original) for letter in found] == [("Late", encode(event)) for event in late]
    assert [letter.message.split(" ms too late")[0].split()[-1] for letter in found] == ["3000", "100"]
    assert (taker.state.late, taker.state.joiner.open_pages) == (2, 1)


def dead_letter_count() -> float:
    """Dead letters of this process."""
    return sum(one.value for one in next(iter(DEAD_LETTERS.collect())).samples if one.name.endswith("_total"))


def test_records_below_the_confirmed_offset_rebuild_the_state_in_silence() -> None:
    """No label, organic install, history or dead letter of them is emitted again, nor counted; what follows goes on."""
    rules = LabelRules("fake_negative", window_ms=1_000, known_ms=1_000, organic=True)
    records = [
        record(page(0), page(1), offset=0),
        record(Install("u", "i0", T + 500, "i"), Install("v", "z", T, "o"), raw=None, offset=1),
        record(raw=b"rubbish", offset=2),
        record(Tick(T + 9_000), page(1, request_id="late"), offset=3),
        record(page(9_000, request_id="next"), Install("u", "i1", T + 9_100, "j"), offset=4),
    ]
    told, rebuilt = Taker(rules), Taker(rules, emit_from=4)
    assert {out.topic for out in told.take(*records[:4])} == {
        "examples", "organic", "histories", "events.dlq"
    }  # fmt: skip
    before = dead_letter_count()
    assert rebuilt.take(*records[:4]) == []
    assert rebuilt.state.late == 0 < told.state.late
    assert sum(rebuilt.processor.tally.examples) == dead_letter_count() - before == 0
    assert rebuilt.take(records[4]) == told.take(records[4]) != []


def test_what_an_input_record_leads_to_does_not_depend_on_the_batch_it_was_read_in() -> None:
    """Records read together and one by one lead to the same output records."""
    records = [record(*(page(900 * k + n) for n in range(3)), offset=k) for k in range(9)]
    together, singly = Taker(RULES), Taker(RULES)
    assert together.take(*records) == [out for one in records for out in singly.take(one)] != []


def test_an_event_in_the_wrong_partition_becomes_a_dead_letter() -> None:
    """A user whose events are spread over partitions has no order: producers must partition by murmur2."""
    partitions = {**PARTITIONS, EVENTS.name: 4}
    processor = RecordProcessor(JoinerOptions(), partitions, None, Tally())
    state = PartitionState(Joiner(RULES), 0, 0, PoisonDetector(0))
    users = [f"u{k}" for k in range(12)]
    events: list[SourceEvent] = [*(page(k, user=user) for k, user in enumerate(users)), Tick(T)]
    events.append(Install("u1", "z", T, "i"))
    found = dead_letters(written(processor, state, [record(*events)], partitions))
    wrong = [event for event in events if not isinstance(event, Tick) and partition_of(event.user, 4) != 0]
    assert [letter.original for letter in found] == [encode(event) for event in wrong]
    assert 0 < state.joiner.open_pages == sum(partition_of(user, 4) == 0 for user in users)
    assert all(letter.error == "WrongPartition" and "murmur2" in letter.message for letter in found)


def test_a_record_of_very_many_bad_events_is_worked_off_in_chunks() -> None:
    """Between them others have their turn; each bad event becomes a dead letter, good ones among them are joined."""
    bad, count = b"\x92\x03\xa1x", 65_535
    parts = [bad] * (count - 1) + [encode(page(0))]
    raw = b"\xdc" + count.to_bytes(2, "big") + b"".join(parts)
    taker = Taker(RULES)
    outputs = list(taker.processor.process(taker.state, [record(raw=raw)]))
    assert len(outputs) > 2 * count // 1_024
    groups = [one for one in outputs if one is not None]
    assert max(len(one.other_records) for one in groups) <= 1_024
    assert sum(len(one.other_records) for one in groups) == count - 1
    assert (taker.state.joiner.open_pages, taker.state.at_boundary, taker.state.next_offset) == (1, True, 1)


def test_a_record_is_not_whole_while_its_dead_letters_go_out() -> None:
    """Also where nothing else is emitted: a commit there would have it taken twice."""
    taker = Taker(RULES)
    raw = b"\x92" + encode(page(0)) + b"\x92\x63\x01"
    groups = taker.processor.process(taker.state, [record(raw=raw)])
    states = [taker.state.at_boundary for one in groups if one is not None]
    assert (states, taker.state.at_boundary) == ([False], True)


def test_poison_in_one_partition_is_not_hidden_by_good_events_of_another() -> None:
    """Each partition has an alarm of its own: producers break one by one."""
    poisoned, sound = Taker(RULES, poison_s=1e-9), Taker(RULES, poison_s=1e-9)

    def drain() -> None:
        for offset in range(POISON_MIN + 1):
            sound.take(record(page(offset), offset=offset))
            poisoned.take(record(raw=b"rubbish", offset=offset))

    with pytest.raises(Poisoned):
        drain()
