"""Records decoded into columns: whatever the bytes, exactly what the slow path says of them, or "not plain"."""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.training.example_batch import batch_of
from learner.training.ranking_progress import identities_of
from learner.training.record_decoder import DecodedRecords, decode_records
from stream.events.codec import array_head, decode_training, encode, encode_record
from stream.events.types import EVENT_BYTES_MAX, RECORD_BYTES_MAX, TIME_MS_MAX, Examples, Impression, Organic
from stream.features.page_features import Catalogue, Layout, build_page
from stream.features.page_kernels import open_page
from tests.support.feature_pages import LAYOUT
from tests.support.learner_world import records, small_spec
from tests.support.training_records import any_records, joined, valid_records

COLUMNS = ("ids", "labels", "weights", "reasons", "ingest_ms", "time_ms")
SPEC = small_spec()
SMALL = Layout(SPEC)
ORGANIC = Organic("u", "i", 1, "install", "request", 5)
# Of each field: values that are valid, and values that aren't.
NAMES = ["x", "x" * 31, "x" * 32, "x" * 256], ["", "x" * 257]
TIMES = [1, 127, 128, 2**16, 2**32, TIME_MS_MAX - 1], [0, -1, TIME_MS_MAX, 2**63, None]
FIELDS: dict[str, tuple[list[Any], list[Any]]] = {
    "request_id": NAMES,
    "time_ms": TIMES,
    "user": NAMES,
    "items": ([["x", "y", "z"]], [["x", "y", "x"], ["x", "", "z"], ["x", "y"], [], list("wxyz")]),
    "variant": (["", "x" * 256], ["x" * 257, 5]),
    "version": ([0, 2**53 - 1], [-1, 2**53, 2**63]),
    "scores": ([[], [0.5, -1e300, 0.0]], [[0.5], [0.5] * 4, [0.5, 0.5, math.inf], [math.nan] * 3]),
    "propensities": ([[], [0.5, -1e300, 0.0]], [[0.5], [0.5] * 4, [0.5, 0.5, math.inf], [math.nan] * 3]),
    "context": ([{}, {"": "", "a": 0.5}], [{"a": math.nan}, {"a": -math.inf}, {"a": None}]),
    "ids": ([[0, 2**63, 2**64 - 1]], [[0, 0, -1], [0, 0], [0] * 4, []]),
    "positions": ([[0, 2, 2]], [[0, 0, 3], [0, 0, -1], [0, 0], [0] * 4, []]),
    "labels": ([[0, 1, 1]], [[0, 0, 2], [0, 0, -1], [0, 0], [0] * 4, []]),
    "weights": ([[1e-6, 1e6, 0.3]], [[1.0, 1.0, w] for w in (9.99e-7, 1.00001e6, 0.0, -1.0, math.nan, math.inf)]),
    "reasons": ([[0, 3, 3]], [[0, 0, 4], [0, 0, -1], [0, 0], [0] * 4, []]),
    "ingest_ms": ([[0, TIME_MS_MAX - 1, 5]], [[0, 0, TIME_MS_MAX], [0, 0, -1], [0, 0], [0] * 4, []]),
}
ORGANIC_FIELDS: dict[str, tuple[list[Any], list[Any]]] = {
    "user": NAMES,
    "item": NAMES,
    "time_ms": TIMES,
    "install_id": NAMES,
    "request_id": (["", "x" * 256], ["x" * 257, 5]),
    "ingest_ms": ([0, TIME_MS_MAX - 1], [-1, TIME_MS_MAX, 2**63]),
}


def accepted(raw: bytes, layout: Layout) -> list[Any] | None:
    """The events of a record that the slow path accepts, all of them; None if it rejects any part or page."""
    events, bad = decode_training(raw)
    pages = [event for event in events if isinstance(event, Examples)]
    return None if bad or (pages and batch_of([pages], layout, 4).rejected[0]) else events


def assert_as_slow_path(raws: list[bytes], layout: Layout) -> int:
    """The number of plain records among the first ones, whose columns are those of the slow path, to the bit."""
    raw, ends = joined(raws)
    plain, found = decode_records(raw, ends, layout)
    log = [accepted(record, layout) for record in raws[:plain]]
    assert None not in log
    events = [event for record in log for event in record or []]
    pages = [event for event in events if isinstance(event, Examples)]
    assert_columns(found, pages, layout)
    texts = [raw[begin:end].decode() for begin, end in found.name_spans.tolist()]
    assert texts == [item for event in pages for item in event.page.items]
    assert found.name_hashes.tolist() == [xxhash.xxh3_64_intdigest(text.encode()) for text in texts]
    per_record = [[event for event in record or [] if isinstance(event, Examples)] for record in log]
    assert found.page_ends.tolist() == np.cumsum([0, *map(len, per_record)]).tolist()
    counts = [sum(len(event.ids) for event in record) for record in per_record]
    assert found.example_ends.tolist() == np.cumsum([0, *counts]).tolist()
    parts = [decode_training(array_head(1) + raw[begin:end])[0][0] for _, begin, end in found.organic.tolist()]
    assert parts == [event for event in events if isinstance(event, Organic)]
    indices = [r for r, record in enumerate(log) for event in record or [] if isinstance(event, Organic)]
    assert found.organic[:, 0].tolist() == indices
    return plain


def assert_columns(found: DecodedRecords, pages: list[Examples], layout: Layout) -> None:
    """They are the columns that `batch_of` makes of these pages."""
    assert found.page_time_ms.tolist() == [event.page.time_ms for event in pages]
    assert found.name_ends.tolist() == np.cumsum([0, *(len(event.page.items) for event in pages)]).tolist()
    assert found.identities.tolist() == identities_of([event.page for event in pages]).tolist()
    assert found.page_starts[-1] == len(found.words)
    if not pages:
        assert len(found.ids) == len(found.words) == 0
        return
    batch = batch_of([pages], layout, 4).examples
    expected = [batch.pages.words, batch.pages.starts, batch.pages.page, batch.pages.position]
    expected += [getattr(batch, name) for name in COLUMNS]
    columns = [found.words, found.page_starts[:-1], found.page, found.position]
    columns += [getattr(found, name) for name in COLUMNS]
    for column, wanted in zip(columns, expected, strict=True):
        assert column.dtype == wanted.dtype
        assert column.tobytes() == np.ascontiguousarray(wanted).tobytes()


def plain(*events: Any, layout: Layout = SMALL) -> bool:
    """Whether a record of these events is plain; if so it has the columns of the slow path."""
    return assert_as_slow_path([encode_record(events)], layout) == 1


def page(items: Sequence[str] = "abc") -> Examples:
    """An ordinary page of these items."""
    catalogue = Catalogue(SMALL)
    words = build_page(SMALL, SMALL.user("u", {}, [], {}), catalogue, catalogue.rows(items))
    n = len(items)
    shown = Impression("request", 1, "u", [*items], features=words.tobytes())
    return Examples(shown, [2**64 - 1] * n, [*range(n)], [0] * n, [1.0] * n, [1] * n, [2] * n)


@settings(max_examples=300, deadline=None)
@given(st.lists(any_records, min_size=1, max_size=3))
def test_they_are_decoded_as_by_the_slow_path_or_not_at_all(raws: list[bytes]) -> None:
    """No record is accepted of which the slow path rejects anything; the columns end before the first that isn't."""
    found = assert_as_slow_path(raws, LAYOUT)
    alone = [assert_as_slow_path([raw], LAYOUT) for raw in raws]
    assert found == [*alone, 0].index(0)


@settings(max_examples=100, deadline=None)
@given(st.lists(valid_records, max_size=4))
def test_what_producers_write_is_plain(raws: list[bytes]) -> None:
    """Valid events of ASCII texts, in any number of records, are decoded without the slow path."""
    assert assert_as_slow_path(raws, LAYOUT) == len(raws)


def test_long_texts_have_the_same_identity() -> None:
    """Of a request id and a user the first 128 octets count, whether decoded or not; further pages differ in items."""
    long = "x" * 128
    shown = page().page
    one, same, other, further = (
        msgspec.structs.replace(shown, request_id=request_id, user=long, items=items)
        for request_id, items in ((long + "a", ["a", "b"]), (long + "b", ["a", "c"]), ("y", ["a"]), (long, ["d"]))
    )
    found = identities_of([one, same, other, further])
    assert found[0].tolist() == found[1].tolist()
    assert len({int(key) for key in found[:, 0]}) == 3
    assert found[:, 2].tolist() == [2, 2, 1, 1]
    assert plain(msgspec.structs.replace(page(), page=msgspec.structs.replace(shown, request_id=long + "a", user=long)))


def test_a_log_of_examples_is_plain() -> None:
    """All records of a joiner's log, those with organic installs and empty ones too."""
    log: list[list[Any]] = [*records(SPEC, 40, per_record=4, items=10), [ORGANIC], []]
    log[3].insert(2, ORGANIC)
    assert assert_as_slow_path([encode_record(record) for record in log], SMALL) == len(log)


def with_fields(event: Any, **fields: Any) -> Any:
    """The event, of whose page or itself these fields have other values."""
    of_page = {name: value for name, value in fields.items() if name in Impression.__struct_fields__}
    if isinstance(event, Organic) or not of_page:
        return msgspec.structs.replace(event, **fields)
    return msgspec.structs.replace(event, page=msgspec.structs.replace(event.page, **of_page))


@pytest.mark.parametrize("field", [*FIELDS, *(f"organic.{name}" for name in ORGANIC_FIELDS)])
def test_fields_at_their_limits(field: str) -> None:
    """The last values that are valid are plain, the first ones that aren't are not."""
    base, name = (ORGANIC, field.removeprefix("organic.")) if "." in field else (page(), field)
    good, bad = (ORGANIC_FIELDS if "." in field else FIELDS)[name]
    for values, found in ((good, True), (bad, False)):
        for value in values:
            event = with_fields(base, **{name: value})
            assert (accepted(encode_record([event]), SMALL) is not None) is found, value
            assert plain(event, page()) is found, value


def test_features_of_another_layout() -> None:
    """Features of another layout or count, truncated, garbled, infinite or missing aren't plain."""
    event = page()
    words = np.frombuffer(event.page.features, np.uint64)
    floats = np.frombuffer(event.page.features, np.float32).copy()
    floats[open_page(words, SMALL.size_array).at.statistics] = np.inf
    others: list[Any] = [floats, words[:-1], words[:1]]
    for index, value in ((0, 1), (1, 2), (2, 2**32 - 1), (2, 1)):
        others.append(words.copy())
        others[-1][index] = value
    assert plain(event)
    for raw in (*(other.tobytes() for other in others), b"", words.tobytes() + b"x"):
        assert accepted(encode_record([with_fields(event, features=raw)]), SMALL) is None
        assert not plain(with_fields(event, features=raw))


def test_fields_that_are_missing_or_unknown() -> None:
    """Only the context may be missing of a page, only the request id and the ingest time of an organic install."""
    for event, least, inner in ((page(), 10, 1), (ORGANIC, 5, None), (page(), 8, None)):
        fields: list[Any] = msgspec.msgpack.decode(encode(event))
        some = fields if inner is None else fields[inner]
        whole, counts = [*some, 5, 5], []
        for count in range(len(whole) + 1):
            some[:] = whole[:count]
            if assert_as_slow_path([msgspec.msgpack.encode([fields])], SMALL):
                counts.append(count)
        assert counts == [*range(least, len(whole) - 1)]


def test_limits() -> None:
    """64 items a page and 128 octets a name are plain, more are left to the slow path, which takes them."""
    names = [chr(33 + n) * (1 + n) for n in range(64)]
    for items, found in ((names, True), ([*names, "n"], False), (["n" * 128], True), (["n" * 129], False)):
        event = page(items)
        assert plain(event) is found
        assert accepted(encode_record([event]), SMALL) == [event]


def test_long_records() -> None:
    """A record of the greatest length is plain; one that is longer isn't, nor one with an event over its limit."""
    event = page()
    size = len(encode_record([event])) - 1
    whole = [event] * (RECORD_BYTES_MAX // size - 1)
    assert plain(*whole)
    assert not plain(*whole, *whole[: len(whole) // 50 + 2])
    n = 2 * EVENT_BYTES_MAX // 14 - 400
    many = Examples(event.page, [1] * n, [0] * n, [1] * n, [1.0] * n, [0] * n, [1] * n)
    over = Examples(event.page, [2**40] * n, [0] * n, [1] * n, [1.0] * n, [0] * n, [1] * n)
    assert plain(many, many)
    assert not plain(over, many)


def test_no_records() -> None:
    """Nothing to decode is nothing decoded; an empty value isn't plain."""
    for raws, count in (([], 0), ([b""], 0), ([encode_record([]), b""], 1)):
        assert assert_as_slow_path(raws, SMALL) == count


@pytest.mark.parametrize("octet", [0xC1, 0xD9, 0xDD, 0xCF, 0xC6])
def test_a_record_that_is_cut_off_is_not_plain(octet: int) -> None:
    """A record that is cut off anywhere isn't plain, whatever follows in the joined bytes."""
    raw = encode_record([page(), ORGANIC])
    for end in range(len(raw)):
        for rest in (raw[end:], bytes([octet]) * 9):
            assert decode_records(raw[:end] + rest, np.array([end, end + len(rest)]), SMALL)[0] == 0


def test_no_read_is_out_of_bounds() -> None:
    """Uncompiled, with an array that refuses bad indices: records cut off anywhere, octets changed anywhere."""
    raw = encode_record([page("ab"), ORGANIC])
    run = [sys.executable, "-W", "ignore", "-m", "tests.support.guarded_decoding", raw.hex()]
    done = subprocess.run(run, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain, other = map(int, done.stdout.split())
    assert plain > 0
    assert other > len(raw)
