"""Lists and vectors of items in a version, for retrieval."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ranker.kernels.layered_table import Change, LayeredTable
from ranker.kernels.retrieval import ItemVectors, RetrievalRows, rows_of, vectors_of
from ranker.versions.snapshot_validation import retrieval_change
from stream.snapshots.payload import Payload
from stream.snapshots.retrieval_rows import RETRIEVAL_PART
from stream.spec.retrieval import Retrieval

# A part's table from a function that reads a payload, and the table before.
Build = Callable[[str, LayeredTable | None, Callable[[Payload], Change]], LayeredTable]


@dataclass(frozen=True)
class LearnedRows:
    """Items' rows as kernels read them."""

    rows: RetrievalRows

    @cached_property
    def vectors(self) -> ItemVectors:
        """The vectors of all items; the first call takes the time of them all."""
        return vectors_of(self.rows)


@dataclass(frozen=True)
class LearnedItems:
    """A version's table of items, and its rows, which versions share while they are the same."""

    table: LayeredTable
    view: LearnedRows


def learned_items(settings: Retrieval, table: LayeredTable, before: LearnedItems | None) -> LearnedItems:
    """What a version has of items, of this table; `before`: what the previous version has."""
    if before is not None and before.table.delta is table.delta and before.table.count == table.count:
        return LearnedItems(table, before.view)
    return LearnedItems(table, LearnedRows(rows_of(table, settings.list_length, settings.vector_dim)))


def build_learned_items(settings: Retrieval, before: LearnedItems | None, build: Build) -> LearnedItems:
    """The same, from payloads."""
    length, dim = settings.list_length, settings.vector_dim
    table = build(
        RETRIEVAL_PART, before.table if before else None, lambda payload: retrieval_change(payload, length, dim)
    )
    return learned_items(settings, table, before)
