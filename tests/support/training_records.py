"""Hypothesis strategies of records of `examples`: valid ones, faults of every field, and bytes that were changed."""

from collections.abc import Sequence
from string import printable
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from stream.events.codec import array_head, encode, encode_record
from stream.events.types import NUMBER_MAX, TIME_MS_MAX, WEIGHT_MAX, WEIGHT_MIN, Examples, Impression, Organic
from stream.features.page_kernels import open_page
from tests.support.feature_pages import LAYOUT, pages

PLAIN = st.text(printable + "\x00\x7f", min_size=1, max_size=9) | st.sampled_from(["r" * 31, "r" * 32, "r" * 128])
times = st.integers(1, 300) | st.integers(1, TIME_MS_MAX - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
ids = st.integers(0, 300) | st.integers(0, 2**64 - 1)
organics = st.builds(
    Organic, PLAIN, PLAIN, times, PLAIN, PLAIN | st.just(""), st.integers(0, 300) | st.integers(0, TIME_MS_MAX - 1)
)


@st.composite
def impressions(draw: st.DrawFn, items_max: int = 4) -> Impression:
    """Pages in plain form with valid features of LAYOUT."""
    words = draw(pages(items_max)).words()
    n = int(words[1])
    page = open_page(words, LAYOUT.size_array)
    page.f32[page.at.statistics] = draw(st.floats(width=32, allow_infinity=False))
    columns = st.sampled_from([0, n]).flatmap(lambda size: st.lists(finite, min_size=size, max_size=size))
    return Impression(
        draw(PLAIN), draw(times), draw(PLAIN), draw(st.lists(PLAIN, min_size=n, max_size=n, unique=True)),
        draw(PLAIN | st.just("")), draw(st.integers(0, NUMBER_MAX - 1)), draw(columns), draw(columns), words.tobytes(),
        draw(st.dictionaries(PLAIN | st.just(""), PLAIN | finite, max_size=3)),
    )  # fmt: skip


@st.composite
def examples(draw: st.DrawFn) -> Examples:
    """Labelled pages in plain form: all their items or some, corrections among them."""
    page = draw(impressions())
    n = draw(st.integers(1, 5))

    def column(values: "st.SearchStrategy[Any]") -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    return Examples(
        page, column(ids), column(st.integers(0, len(page.items) - 1)), column(st.integers(0, 1)),
        column(st.floats(WEIGHT_MIN, WEIGHT_MAX) | st.sampled_from([1.0, WEIGHT_MIN, WEIGHT_MAX])),
        column(st.integers(0, 3)), column(st.integers(0, 300) | st.integers(0, TIME_MS_MAX - 1)),
    )  # fmt: skip


valid = st.lists(examples() | organics, max_size=3)
valid_records = valid.map(encode_record)

texts = st.text(max_size=3) | st.sampled_from(["", "ü", "r" * 129, "r" * 256, "r" * 257])
numbers = st.sampled_from(
    [-1, 0, 1, 2, 3, 4, 200, 2**16, 2**32, NUMBER_MAX, TIME_MS_MAX, 2**63, 2**64 - 1, 0.0, 1.0, 0.5, True, None, "1"]
)
weights = st.floats() | st.sampled_from([0.0, 1, 9.999e-7, 1000000.0001, 1e-6, None])
PAGE_FAULTS: dict[str, "st.SearchStrategy[Any]"] = {
    "request_id": texts,
    "time_ms": numbers,
    "user": texts,
    "items": st.lists(texts | st.sampled_from("abc"), max_size=4),
    "variant": texts,
    "version": numbers,
    "scores": st.lists(st.floats(), max_size=4),
    "propensities": st.lists(st.floats(), max_size=4),
    "context": st.dictionaries(texts, texts | st.floats() | numbers, max_size=3),
}
FAULTS: dict[str, "st.SearchStrategy[Any]"] = {
    "ids": numbers,
    "positions": numbers,
    "labels": numbers,
    "weights": weights,
    "reasons": numbers,
    "ingest_ms": numbers,
}


@st.composite
def other_features(draw: st.DrawFn, raw: bytes) -> bytes:
    """Features with another layout or count, an infinite number, words changed, missing or added."""
    words = np.frombuffer(raw, np.uint64).copy()
    match draw(st.sampled_from(["word", "float", "length", "none", "octet"])):
        case "word":
            words[draw(st.integers(0, len(words) - 1))] = draw(ids)
        case "float":
            f32 = words.view(np.float32)
            f32[draw(st.integers(-12, -1))] = draw(st.sampled_from([np.inf, -np.inf, np.nan, 1.0]))
        case "length":
            return words.tobytes()[: draw(st.integers(0, len(raw)))] + draw(st.binary(max_size=9))
        case "none":
            return b""
        case "octet":
            words.view(np.uint8)[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return words.tobytes()


@st.composite
def faulty(draw: st.DrawFn) -> Examples:
    """Examples of which a field is something else, valid or not."""
    made = draw(examples())
    field = draw(st.sampled_from([*PAGE_FAULTS, *FAULTS, "features", "column", "columns"]))
    page: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    if field in PAGE_FAULTS:
        page[field] = draw(PAGE_FAULTS[field])
    elif field == "features":
        page[field] = draw(other_features(made.page.features))
    elif field == "columns":
        columns = {name: [] for name in FAULTS}
    else:
        name = draw(st.sampled_from([*FAULTS])) if field == "column" else field
        values = list(getattr(made, name))
        if field == "column":
            values = draw(st.permutations(values + draw(st.lists(FAULTS[name], max_size=1))))[draw(st.integers(0, 1)) :]
        else:
            values[draw(st.integers(0, len(values) - 1))] = draw(FAULTS[name])
        columns[name] = values
    return msgspec.structs.replace(made, page=msgspec.structs.replace(made.page, **page), **columns)


@st.composite
def resized(draw: st.DrawFn) -> bytes:
    """A record whose event, or its page, has fewer or more fields."""
    made = draw(examples() | organics)
    fields: list[Any] = msgspec.msgpack.decode(encode(made))
    inner = fields[1] if isinstance(made, Examples) and draw(st.booleans()) else fields
    if draw(st.booleans()):
        inner.append(draw(numbers | texts))
    else:
        del inner[draw(st.integers(1, len(inner) - 1)) :]
    return msgspec.msgpack.encode([fields])


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A valid record with octets changed, removed or added, or with another head."""
    raw = bytearray(draw(valid_records))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(raw) - 1, 0)))
        how = draw(st.sampled_from(["change", "cut", "add", "head"]))
        if how == "change" and raw:
            raw[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del raw[at : at + draw(st.integers(1, 9)) if draw(st.booleans()) else len(raw)]
        elif how == "add":
            raw[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif how == "head":
            raw[:1] = array_head(draw(st.integers(0, 70_000)))
    return bytes(raw)


any_records = (
    valid_records
    | st.lists(faulty() | examples() | organics | st.builds(Organic, texts, texts, numbers, texts, texts, numbers),
               min_size=1, max_size=3).map(encode_record)
    | resized()
    | changed()
    | st.binary(max_size=40)
)  # fmt: skip


def joined(records: Sequence[bytes]) -> "tuple[bytes, np.ndarray[Any, np.dtype[np.int64]]]":
    """The records end to end, and where each ends."""
    return b"".join(records), np.cumsum([0, *map(len, records)], dtype=np.int64)[1:]
