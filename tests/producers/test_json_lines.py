"""JSON lines: what docs/events.md says is what the reader does."""

import os
import re
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.json_lines import decode_line, file_lines, numbered_lines
from producers.source import PAUSE, InvalidEvent, SourceElement
from stream.events.named_events import NAMED_BYTES_MAX
from stream.events.types import Impression, Install
from stream.runtime.errors import BadEvent, DataError

DOCS = Path(__file__).parents[2] / "docs" / "events.md"
GOLDEN = Path(__file__).parent / "events.golden"
NOW_MS = 1_800_000_000_000


def read(*chunks: bytes | None) -> list[SourceElement]:
    """What the reader makes of these pieces."""
    return [event for _, event in numbered_lines(chunks, lambda: NOW_MS)]


def examples() -> list[bytes]:
    """The lines in the code blocks of the docs."""
    blocks = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    return [line.encode() for block in blocks for line in block.splitlines()]


def test_the_docs_examples_are_the_golden_events() -> None:
    """Every example line in docs/events.md is taken, and means what it meant when it was written."""
    events = read(b"\n".join(examples()))
    assert [msgspec.json.encode(event).decode() for event in events] == GOLDEN.read_text().splitlines()


def test_the_docs_broken_lines_are_broken_for_the_reason_given() -> None:
    """Every broken line in docs/events.md is refused in the very words that stand beside it."""
    rows = re.findall(r"^\| `(\{.*?\})` \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    assert len(rows) >= 8
    assert read("\n".join(line for line, _ in rows).encode()) == [
        InvalidEvent(f"line {number}", reason) for number, (_, reason) in enumerate(rows, 1)
    ]


def test_a_broken_line_costs_only_itself() -> None:
    """Lines are numbered from 1, empty ones too; the ones around a broken line are played."""
    good = b'{"type":"item","item":"a"}'
    found = read(good + b"\r\n\n \n\xff{nonsense\n[1]\n" + good)
    assert [type(event).__name__ for event in found] == ["Item", "InvalidEvent", "InvalidEvent", "Item"]
    assert [event.location for event in found if isinstance(event, InvalidEvent)] == ["line 4", "line 5"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"type":"impression","time_ms":1,"time":"2024-11-24T08:00:00Z","user":"u","items":["a"]}', "give either"),
        ('{"type":"install","time_ms":-5,"user":"u","item":"a"}', "not between 1970 and 2100"),
        ('{"type":"install","time_ms":1e300,"user":"u","item":"a"}', "time_ms"),
        ('{"type":"impression","time_ms":1000,"user":"u","items":["a"],"scores":[NaN]}', "malformed"),
        ('{"type":"impression","time_ms":1000,"user":"u","items":["a"],"context":{"x":1e999}}', "range"),
        ('{"type":"impression","time_ms":1000,"user":"u","items":[]}', "1 to 1000 items"),
        ('{"type":"item","item":""}', "item is empty"),
        ('{"type":"item","item":"' + "i" * 257 + '"}', "item has 257 bytes, the limit is 256"),
        ('{"type":"install","user":"' + "ü" * 129 + '","item":"a","time_ms":1}', "user has 258 bytes"),
        ('{"type":"item","item":"a","attributes":{"x":{"y":1}}}', "attributes"),
        ('{"type":"user","user":"u","attributes":{"x":"' + "y" * 70_000 + '"}}', "at most 65536 bytes"),
        ('{"item":"a"}', "type"),
    ],
)  # fmt: skip
def test_what_cannot_be_true_is_refused(line: str, reason: str) -> None:
    """Wrong types, numbers and sizes are refused with their reason."""
    with pytest.raises(BadEvent, match=reason):
        decode_line(line.encode())


def test_an_event_from_the_future_is_broken() -> None:
    """A line may be up to a minute ahead of its own arrival, as with the joiner."""
    at = [NOW_MS + 60_000, NOW_MS + 60_001]
    found = read("\n".join(f'{{"type":"tick","time_ms":{t}}}' for t in at).encode())
    assert [isinstance(event, InvalidEvent) for event in found] == [False, True]


def test_missing_ids_come_of_the_content() -> None:
    """The same line has the same id wherever it stands; another line has another."""
    line = b'{"type":"impression","time_ms":1000,"user":"u","items":["a","b"]}'
    one, other, same = read(b"\n".join([line, line.replace(b'"b"', b'"c"'), b"", line]))
    assert isinstance(one, Impression)
    assert isinstance(other, Impression)
    assert one == same
    assert one.request_id
    assert one.request_id != other.request_id
    install = decode_line(b'{"type":"install","time_ms":1000,"user":"u","item":"a"}')
    assert isinstance(install, Install)
    assert install.install_id not in ("", one.request_id)


@given(st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_where_the_text_is_cut_does_not_matter(cuts: list[int], newline_at_end: bool) -> None:
    """Pieces of any size give the same events; pauses in between only say that nothing came."""
    text = b"\n".join(examples()) + b"\n" * newline_at_end
    edges = [0, *sorted(cuts), len(text)]
    chunks: list[bytes | None] = [None]
    for first, last in pairwise(edges):
        chunks += [text[first:last], None]
    found = read(*chunks)
    assert [event for event in found if event is not PAUSE] == read(text)
    assert found.count(PAUSE) == chunks.count(None)


def test_a_line_without_end_is_not_kept_whole() -> None:
    """A line far over the limit is one broken line, whatever its length; the next one plays."""
    found = read(*[b"x" * NAMED_BYTES_MAX] * 5, b'\n{"type":"item","item":"a"}')
    assert [type(event).__name__ for event in found] == ["InvalidEvent", "Item"]


def test_a_pipe_is_read_live() -> None:
    """What stands in a pipe is yielded before the pipe is closed, with pauses while nothing comes."""
    reading, writing = os.pipe()
    try:
        source = file_lines(f"/dev/fd/{reading}", lambda: NOW_MS)
        os.write(writing, b'{"type":"item","item":"a"}\n{"type":"it')
        assert type(next(source)).__name__ == "Item"
        assert next(source) is PAUSE
        os.write(writing, b'em","item":"b"}')
    finally:
        os.close(writing)
        os.close(reading)
    assert [type(event).__name__ for event in source if event is not PAUSE] == ["Item"]


@pytest.mark.parametrize("name", ["nowhere.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    """No such file, or a folder: DataError at once, with what to give instead."""
    with pytest.raises(DataError, match="name a file of JSON lines"):
        file_lines(str(tmp_path / name), lambda: NOW_MS)
