"""Rows of exported examples: one for each event of a record of `examples`. docs/export.md says what each column is."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, Final

import numpy as np
import polars as pl

from stream.events.codec import array_head, decode_training, record_chunks
from stream.events.topics import EXAMPLES
from stream.events.types import Examples, Organic, TrainingEvent
from stream.log.protocol import Record
from stream.tables.dtypes import U64

TIME: Final = pl.Datetime("ms", "UTC")
SCHEMA: Final[Mapping[str, Any]] = {
    "offset": pl.Int64,
    "append_time": TIME,
    "key": pl.Binary,
    "kind": pl.String,
    "user": pl.String,
    "event_time": TIME,
    "request_id": pl.String,
    "variant": pl.String,
    "version": pl.Int64,
    "items": pl.List(pl.String),
    "scores": pl.List(pl.Float64),
    "propensities": pl.List(pl.Float64),
    "context": pl.String,
    "ids": pl.List(pl.UInt64),
    "positions": pl.List(pl.Int32),
    "labels": pl.List(pl.Int8),
    "weights": pl.List(pl.Float64),
    "reasons": pl.List(pl.UInt8),
    "ingest_times": pl.List(TIME),
    "install_id": pl.String,
    "layout": pl.UInt64,
    "before": pl.Binary,
    "features": pl.List(pl.UInt64),
    "after": pl.Binary,
}
# What records are made from again, and what says whose a row is.
RECORD_COLUMNS: Final = ("offset", "append_time", "key", "kind", "user", "event_time", "before", "features", "after")
EXAMPLES_KIND, ORGANIC_KIND, ERASE_KIND = "examples", "organic", "erase"
NULL: Final = 2**32 - 1  # as the size of a value
NO_WORDS: Final[U64] = np.zeros(0, np.uint64)
Erased = Mapping[str, int]  # time up to which a user is erased, ms, by user


def rows_of(records: Sequence[Record]) -> tuple[pl.DataFrame, int]:
    """The rows of these records, and how many of their events are left out as invalid: nobody learns those."""
    found: list[tuple[Any, ...]] = []
    invalid = 0
    for record in records:
        head = record.offset, record.time_ms, record.key
        for part, event in _events(record.value or b""):
            if event is None:
                invalid += 1
            else:
                found.append((*head, *_said(event), *_split(part, event)))
    columns = list(zip(*found, strict=True)) or [()] * len(SCHEMA)
    return pl.DataFrame([_series(name, of) for name, of in zip(SCHEMA, columns, strict=True)]), invalid


def without_erased(rows: pl.DataFrame, erased: Erased) -> pl.DataFrame:
    """The rows but those of erased users, by event time; that they were erased stays, as in the ledger."""
    if not erased:
        return rows
    until_ms = pl.col("user").replace_strict(erased, default=-1, return_dtype=pl.Int64)
    return rows.filter((pl.col("kind") == ERASE_KIND) | (pl.col("event_time").dt.epoch("ms") > until_ms))


def digest_of(rows: pl.DataFrame) -> str:
    """A digest of RECORD_COLUMNS: Parquet files have no checksums, and a flipped bit in one can be read as a value."""
    found = hashlib.blake2b(digest_size=16)
    for name in RECORD_COLUMNS:
        column = rows[name]
        if column.dtype in (pl.String, pl.Binary):
            column = column.cast(pl.Binary)
            sizes, content = column.bin.size(), b"".join(column.drop_nulls())
        elif column.dtype == pl.List:
            sizes, content = column.list.len(), column.explode().drop_nulls().to_numpy().tobytes()
        else:
            sizes, content = column.is_null().cast(pl.UInt32), column.to_physical().to_numpy().tobytes()
        found.update(sizes.fill_null(NULL).to_numpy().tobytes())
        found.update(content)
    return found.hexdigest()


def records_of(rows: pl.DataFrame) -> Iterator[Record]:
    """The records that these rows, with RECORD_COLUMNS at least, were made from, without what was left out."""
    before, after = rows["before"].to_list(), rows["after"].to_list()
    ends = np.cumsum(rows["features"].list.len().to_numpy()) * 8
    words = rows["features"].filter(rows["features"].list.len() > 0).explode().to_numpy().astype("<u8").tobytes()
    features = [words[a:b] for a, b in pairwise([0, *ends.tolist()])]
    offsets, keys = rows["offset"].to_numpy(), rows["key"].to_list()
    times_ms = rows["append_time"].dt.epoch("ms").to_list()
    firsts = np.flatnonzero(np.diff(offsets, prepend=-1)).tolist()
    for first, end in pairwise([*firsts, len(offsets)]):
        cut = zip(before[first:end], features[first:end], after[first:end], strict=True)
        value = array_head(end - first) + b"".join(chain.from_iterable(cut))
        yield Record(EXAMPLES.name, 0, int(offsets[first]), times_ms[first], keys[first], value)


def _events(raw: bytes) -> Iterator[tuple[bytes, TrainingEvent | None]]:
    """Each event of a record with its bytes; None for one that is invalid."""
    chunks = [raw[begin:end] for begin, end, _ in record_chunks(raw, 1) if begin]
    events, bad = decode_training(raw)
    if not bad:
        yield from zip(chunks, events, strict=True)
        return
    for part in chunks or [raw]:
        one = decode_training(array_head(1) + part)[0]
        yield part, one[0] if one else None


def _said(event: TrainingEvent) -> tuple[Any, ...]:
    """The columns from "kind" to "install_id"."""
    if isinstance(event, Examples):
        page = event.page
        context = json.dumps(page.context, ensure_ascii=False) if page.context else None
        return (
            EXAMPLES_KIND, page.user, page.time_ms, page.request_id, page.variant, page.version, page.items,
            page.scores, page.propensities, context, event.ids, event.positions, event.labels, event.weights,
            event.reasons, event.ingest_ms, None,
        )  # fmt: skip
    nothing = (None,) * 8
    if isinstance(event, Organic):
        head = ORGANIC_KIND, event.user, event.time_ms, event.request_id, None, None, [event.item]
        return (*head, *nothing, [event.ingest_ms], event.install_id)
    return (ERASE_KIND, event.user, event.time_ms, None, None, None, None, *nothing, None, None)


def _split(part: bytes, event: TrainingEvent) -> tuple[int | None, bytes, U64, bytes]:
    """An event's bytes, cut around a page's features: layout, bytes before, words, bytes after."""
    features = event.page.features if isinstance(event, Examples) else b""
    if not features or len(features) % 8:
        return None, part, NO_WORDS, b""
    begin = part.index(features)
    words = np.frombuffer(features, "<u8")
    return int(words[0]), part[:begin], words, part[begin + len(features) :]


def _series(name: str, values: Sequence[Any]) -> pl.Series:
    kind = SCHEMA[name]
    if isinstance(kind, pl.List):
        return _lists(name, values, kind)
    return pl.Series(name, values, pl.Int64).cast(TIME) if kind == TIME else pl.Series(name, values, kind)


def _lists(name: str, values: Sequence[Any], kind: pl.List) -> pl.Series:
    """Lists, and None, as a column: cut from all their elements at once, since Polars takes 10 µs a list."""
    lengths = np.array([-1 if one is None else len(one) for one in values], np.int64)
    parts = [one for one in values if one is not None and len(one)]
    if name == "features":
        elements = pl.Series(name, np.concatenate([NO_WORDS, *parts]))
    else:
        inner = pl.Int64 if kind.inner == TIME else kind.inner
        elements = pl.Series(name, list(chain.from_iterable(parts)), inner)
    rows = pl.DataFrame({"row": np.repeat(np.arange(len(values)), np.maximum(lengths, 0)), name: elements})
    lists = rows.group_by("row", maintain_order=True).agg(name)
    found = pl.DataFrame({"row": np.arange(len(values)), "length": lengths}).join(
        lists, on="row", how="left", maintain_order="left"
    )
    empty = pl.lit([], pl.List(elements.dtype))
    return found.select(pl.when(pl.col("length") == 0).then(empty).otherwise(pl.col(name)).cast(kind).alias(name))[name]
