"""Records scanned in place: whatever the bytes, the scan says what the decoder says, or that it can't tell."""

from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.events import Impression, Install, SourceEvent, Tick, encode_record
from stream.joiner.raw_impression import JoinEvent, RawImpression, read_any, read_record
from stream.joiner.record_scan import ITEMS_SCANNED, plain_events

texts = st.text(max_size=40) | st.sampled_from(["r" * 31, "r" * 32, "r" * 300])
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


def plainly(read: tuple[list[JoinEvent], list[tuple[bytes, str]]]) -> Any:
    """What was read, in a form that can be compared."""
    return [msgspec.structs.astuple(e) if isinstance(e, RawImpression) else e for e in read[0]], read[1]


@settings(max_examples=500, deadline=None)
@given(events)
@example([msgspec.structs.replace(PAGE, items=[f"i{k}" for k in range(ITEMS_SCANNED + 1)])])
@example([msgspec.structs.replace(PAGE, items=["a", "a"])])
def test_the_scan_agrees_with_the_decoder(events: list[SourceEvent]) -> None:
    """Events of every kind, true or not, are read the same in both ways."""
    raw = encode_record(events)
    assert plainly(read_record(raw)) == plainly(read_any(raw))


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
    assert plainly(read_record(bytes(raw))) == plainly(read_any(bytes(raw)))


def test_what_our_producers_write_is_plain() -> None:
    """An ordinary record is scanned, an empty one too; text beyond ASCII goes the longer way."""
    assert plain_events(encode_record(PLAIN)) is not None
    assert plain_events(encode_record([])) == []
    assert plain_events(encode_record([msgspec.structs.replace(PAGE, user="ü")])) is None
    assert plain_events(b"") is None
