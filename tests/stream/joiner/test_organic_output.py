"""Organic installs as the joiner writes them to `examples`, where the spec wants them there."""

from dataclasses import replace

import pytest
from msgspec import Raw, msgpack

from stream.events.codec import decode_examples, decode_organic, decode_training, encode, encode_record
from stream.events.topics import EVENTS, EXAMPLES, HISTORIES, ORGANIC
from stream.events.types import Examples, Impression, Install, Organic, SourceEvent, Tick, TrainingEvent
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import encode_examples, user_of
from stream.joiner.metrics import Tally
from stream.joiner.output_records import pack_records
from stream.joiner.poison_detector import PoisonDetector
from stream.joiner.record_processor import JoinerOptions, PartitionState, RecordProcessor
from stream.log.dead_letters import Outgoing
from stream.log.protocol import Record, partition_of
from tests.support.plain_writer import labelled
from tests.support.plain_writer import written as written_of

T = 1_700_000_000_000
CAME = T + 10_000
RULES = LabelRules("eager", window_ms=1_000, known_ms=1_000, organic=True, organic_examples=True)
PARTITIONS = {EVENTS.name: 1, EXAMPLES.name: 1, HISTORIES.name: 2, ORGANIC.name: 2}


def page(k: int) -> Impression:
    """The k-th page, of its own user, a millisecond after the one before."""
    return Impression(f"r{k}", T + k, f"u{k}", ["a", "b"], features=bytes(40))


def organic(k: int) -> Organic:
    """The k-th organic install, of the user of the k-th page."""
    return Organic(f"u{k}", "a", T + k, f"i{k}", "", CAME)


def read(value: bytes | None) -> list[TrainingEvent]:
    """A record of `examples`, all of which can be read."""
    events, bad = decode_training(value or b"")
    assert not bad
    return events


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("bytes_max", [400, 500_000])
@pytest.mark.parametrize(("pages", "installs"), [(6, 4), (0, 4), (6, 0), (0, 0)])
def test_they_come_behind_the_labels_of_the_same_record(
    partitions: int, bytes_max: int, pages: int, installs: int
) -> None:
    """In one record with them while it isn't too large, each in its user's partition, all in order; none of either:
    no record."""
    batches, shown = labelled(Joiner(RULES), [*map(page, range(pages)), Tick(T + 5_000)], 0, CAME)
    found = list(map(organic, range(installs)))
    events = [*encode_examples(batches, shown), *map(encode, found)]
    users_of_events = [*map(user_of, shown), *(one.user for one in found)]
    written = pack_records(EXAMPLES.name, events, users_of_events, partitions, bytes_max)
    labels = decode_examples(msgpack.encode([Raw(raw) for raw in encode_examples(batches, shown)]))[0]
    wanted: list[TrainingEvent] = [*labels, *found]
    for p in range(partitions):
        found_there = [event for out in written if out.partition == p for event in read(out.value)]
        users = [event.page.user if isinstance(event, Examples) else event.user for event in wanted]
        assert found_there == [e for e, user in zip(wanted, users, strict=True) if partition_of(user, partitions) == p]
    assert {out.topic for out in written} <= {EXAMPLES.name}
    if bytes_max > 400:
        assert len(written) == len({out.partition for out in written})
    else:
        assert all(len(out.value or b"") <= bytes_max + 3 for out in written)


@pytest.mark.parametrize("wanted", [False, True])
def test_the_rules_say_whether_examples_has_them(wanted: bool) -> None:
    """The topic `organic` has them in any case; in `examples` they follow the labels that the same record made."""
    joiner = Joiner(replace(RULES, organic_examples=wanted))
    processor = RecordProcessor(JoinerOptions(), PARTITIONS, None, Tally())
    state = PartitionState(joiner, 0, 0, PoisonDetector(0))
    parts: list[list[SourceEvent]] = [
        [page(0), Install("u0", "b", T, "mine"), Install("v", "a", T, "i", "gone")],
        [Tick(T + 1_000)],
        [page(1), Tick(T + 9_000)],
    ]
    written: list[Outgoing] = []
    for offset, part in enumerate(parts):
        records = [Record(EVENTS.name, 0, offset, CAME, None, encode_record(part))]
        written += written_of(processor, state, records, PARTITIONS)
    one = Organic("v", "a", T, "i", "gone", CAME)
    found = [event for out in written if out.topic == EXAMPLES.name for event in read(out.value)]
    assert [type(event) for event in found] == [Examples, Examples, Examples, *[Organic] * wanted]
    assert found[3:] == [one] * wanted
    (apart,) = [out for out in written if out.topic == ORGANIC.name]
    assert decode_organic(apart.value or b"") == ([one], [])
