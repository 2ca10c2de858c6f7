"""A record of very many events as records of fewer."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream.events import Tick, encode
from stream.joiner.bulk_record import event_count, record_slices
from stream.joiner.raw_impression import read_record

EVENTS = st.lists(st.builds(Tick, st.integers(-1, 2**40)).map(encode) | st.sampled_from([b"\xc0", b"\x92\x03\xa1x"]))


@given(EVENTS, st.integers(1, 20))
def test_slices_hold_the_same_events(events: list[bytes], events_max: int) -> None:
    """None lost, none added, in order, no slice over its size."""
    raw = msgspec.msgpack.encode([msgspec.Raw(event) for event in events])
    slices = list(record_slices(raw, events_max))
    assert max(map(event_count, slices)) <= max(events_max, event_count(raw) if len(slices) == 1 else 0)
    good, bad = read_record(raw)
    found = [read_record(one) for one in slices]
    assert [event for some, _ in found for event in some] == good
    assert [one for _, some in found for one in some] == bad


def test_a_record_that_is_bad_as_a_whole_stays_whole() -> None:
    """It becomes one dead letter."""
    for raw in (b"", b"rubbish", b"\xdc\xff\xff\xc0", b"\xdd\xff\xff\xff\xff\xc0"):
        assert list(record_slices(raw)) == [raw]
