"""Records scanned in place: whatever the bytes, the scan says what the decoder says, or that it can't tell."""

from functools import partial
from itertools import takewhile
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kafka.partitioner import murmur2

from stream.events.codec import encode, encode_record, event_count, record_chunks
from stream.events.types import BadPart, Impression, Install, SourceEvent, Tick
from stream.joiner.kernels import hashes
from stream.joiner.kernels import record_scan as scan
from stream.joiner.kernels.record_scan import ITEMS_SCANNED
from stream.joiner.record_events import (
    RecordEvents,
    concatenate,
    decode_chunks,
    decode_record,
    read_record,
    scan_records,
)

texts = st.text(max_size=40) | st.sampled_from(["r" * 31, "r" * 32, "r" * 256, "r" * 257])
times = st.sampled_from([0, 1, 127, 128, 65_536, 1_700_000_000_000, 4_102_444_800_000, 2**63])
doubles = st.lists(st.floats(), max_size=3)
pages = st.builds(
    Impression, texts, times, texts, st.lists(texts | st.sampled_from("ab"), max_size=4), texts,
    st.integers(0, 2**54), doubles, doubles, st.binary(max_size=300),
    st.dictionaries(texts, texts | st.floats(), max_size=3),
)  # fmt: skip
installs = st.builds(Install, texts, texts, times, texts, texts, st.booleans())
events = st.lists(pages | installs | st.builds(Tick, times), max_size=4)
PAGE = Impression("request", 1_700_000_000_000, "user", ["a", "b"], "v", 7, [0.5, 1.5], [], b"features", {"k": 1.5})
INSTALL = Install("user", "a", 1_700_000_000_001, "i", "request", True)
PLAIN: list[SourceEvent] = [PAGE, INSTALL, Tick(5)]
PAGE_TAG = scan.PAGE
BOTH = [scan.TAG, scan.BEGIN, scan.END, scan.TIME]
COLUMNS_OF = {
    scan.PAGE: [*BOTH, scan.SIZE, scan.REQUEST, scan.USER, scan.MURMUR2],
    scan.INSTALL: [*BOTH, scan.REQUEST, scan.USER, scan.MURMUR2, scan.ITEM, scan.KEY, scan.PAIR, scan.RETRACTED],
    scan.TICK: BOTH,
}


def plainly(read: tuple[RecordEvents, list[BadPart]]) -> Any:
    """What was read, in a form that can be compared: each event by the columns of its kind."""
    events, bad = read
    found = []
    for row in events.columns.tolist():
        kept = COLUMNS_OF[row[0]]
        found.append([row[k] for k in kept] + events.hashes[row[5] : row[5] + row[4] * (row[0] == PAGE_TAG)].tolist())
    return found, bad


@settings(max_examples=500, deadline=None)
@given(events)
@example([msgspec.structs.replace(PAGE, items=[f"i{k}" for k in range(ITEMS_SCANNED + 1)])])
@example([msgspec.structs.replace(PAGE, items=["a", "a"])])
def test_the_scan_agrees_with_the_decoder(events: list[SourceEvent]) -> None:
    """Events of every kind, true or not, are read the same in both ways."""
    raw = encode_record(events)
    assert plainly(read_record(raw)) == plainly(decode_record(raw))


@settings(max_examples=2_000, deadline=None)
@given(st.data())
def test_the_scan_agrees_with_the_decoder_about_broken_bytes(data: st.DataObject) -> None:
    """A byte changed, cut out or put in: what the scan takes, the decoder takes as the very same events."""
    raw = bytearray(encode_record(PLAIN))
    at = data.draw(st.integers(0, len(raw) - 1))
    byte = data.draw(st.integers(0, 255))
    kind = data.draw(st.sampled_from(["change", "cut", "put", "end"]))
    if kind == "change":
        raw[at] = byte
    elif kind == "cut":
        del raw[at]
    elif kind == "put":
        raw.insert(at, byte)
    else:
        del raw[at:]
    wanted = plainly(decode_record(bytes(raw)))
    assert plainly(read_record(bytes(raw))) == wanted
    followed = scan_records([bytes(raw), encode_record(PLAIN)], [0, 1], [0, 0])
    assert not len(followed.records) or plainly((followed.of_record(0), [])) == wanted, "it was read beyond its end"


def test_what_our_producers_write_is_plain() -> None:
    """An ordinary record is scanned, an empty one too; text beyond ASCII goes the longer way."""
    other = encode_record([msgspec.structs.replace(PAGE, user="ü")])
    assert [is_plain(raw) for raw in (encode_record(PLAIN), encode_record([]), other, b"")] == [
        True,
        True,
        False,
        False,
    ]
    assert len(read_record(encode_record([]))[0]) == 0


def is_plain(raw: bytes) -> bool:
    """Whether a record is scanned."""
    return len(scan_records([raw], [0], [0]).records) == 1


@settings(deadline=None)
@given(
    st.lists(
        events.map(encode_record) | st.sampled_from([encode_record(some) for some in ([], [PAGE], PLAIN)]), max_size=6
    )
)
def test_records_that_are_read_together_have_the_events_of_each(raws: list[bytes]) -> None:
    """Up to the first that isn't plain: the same columns, hashes and bytes as read singly, each at its own offset."""
    found = scan_records(raws, range(7, 7 + len(raws)), range(len(raws)))
    plain = list(takewhile(is_plain, raws))
    assert found.records[:, :2].tolist() == [[7 + k, k] for k in range(len(plain))]
    for k, raw in enumerate(plain):
        one, single = found.of_record(k), read_record(raw)[0]
        assert plainly((one, [])) == plainly((single, []))
        assert [found.bytes_of(n, k) for n in range(len(one))] == [single.bytes_of(n) for n in range(len(single))]
    assert found.tally == tuple(map(sum, zip((0, 0, 0), *(read_record(raw)[0].tally for raw in plain), strict=True)))


@given(st.binary(max_size=40))
def test_a_user_is_hashed_as_kafka_does(user: bytes) -> None:
    """Whatever bytes: modulo the number of partitions the hash is the partition that producers choose."""
    hashed = hashes.murmur2(np.frombuffer(user + b"x", np.uint8), 0, len(user))
    assert hashed == murmur2(user) & 0x7FFF_FFFF


some = st.lists(st.builds(Tick, st.integers(-1, 2**40)).map(encode) | st.sampled_from([b"\xc0", b"\x92\x03\xa1x"]))


@given(some | st.lists(st.sampled_from([encode(PAGE), encode(INSTALL), b"\xc0"]), max_size=8), st.integers(1, 20))
def test_chunks_contain_the_same_events(events: list[bytes], events_max: int) -> None:
    """None lost, none added, in order, each where the record has it, no chunk over its size."""
    raw = msgspec.msgpack.encode([msgspec.Raw(event) for event in events])
    chunks = [one for _, _, one in record_chunks(raw, events_max)]
    assert max(map(event_count, chunks)) <= max(events_max, event_count(raw) if len(chunks) == 1 else 0)
    with patch("stream.joiner.record_events.record_chunks", partial(record_chunks, events_max=events_max)):
        read = list(decode_chunks(raw))
    found = concatenate([some for some, _ in read])
    assert plainly((found, [one for _, bad in read for one in bad])) == plainly(decode_record(raw))


def test_a_record_that_is_bad_as_a_whole_stays_whole() -> None:
    """It becomes one dead letter."""
    for raw in (b"", b"rubbish", b"\xdc\xff\xff\xc0", b"\xdd\xff\xff\xff\xff\xc0"):
        assert [one for _, _, one in record_chunks(raw)] == [raw]
