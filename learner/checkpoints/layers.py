"""Arrays from a checkpoint's chunks: a table's layers are read behind each other, the newest first, and merged."""

from itertools import groupby
from typing import Final

import numpy as np

from learner.checkpoints.file_format import Array, Chunk, Damaged, FileReader, Footer, TableFooter
from learner.checkpoints.model_arrays import VALUES, Arrays
from stream.tables.dtypes import F32, U32, U64
from stream.tables.table_runs import BITS_MAX, BITS_MIN, NO_VALUES, Layer, merge

EMPTIED: Final = ".emptied"  # suffix of the name of a layer's runs without a row
SUFFIXES: Final = ("", VALUES, EMPTIED)
Reads = list[tuple[Chunk, Array]]


def read_arrays(footer: Footer, reader: FileReader) -> Arrays:
    """All arrays of a checkpoint, tables as rows. Raises Damaged, OSError."""
    reads, arrays = Reads(), Arrays()
    of_tables = {name + suffix: (name, suffix) for name in footer.tables for suffix in SUFFIXES}
    tables: dict[str, dict[str, list[Chunk]]] = {name: {s: [] for s in SUFFIXES} for name in footer.tables}
    for chunk in footer.chunks:
        if chunk.name in of_tables:
            name, suffix = of_tables[chunk.name]
            tables[name][suffix].append(chunk)
        else:
            arrays[chunk.name] = np.empty(chunk.shape, chunk.dtype)
            reads.append((chunk, arrays[chunk.name]))
    merges = {name: _TableReads(name, of_table, reads) for name, of_table in tables.items()}
    reader.read(reads)
    for name, table in merges.items():
        arrays |= table.merged(footer.tables[name])
    return arrays


class _TableReads:
    """A table's chunks, and the arrays that they are read into."""

    def __init__(self, name: str, chunks: dict[str, list[Chunk]], reads: Reads) -> None:
        self._name, self._has_values = name, bool(chunks[VALUES])
        self._narrow: list[tuple[slice, U64]] = []  # rows from before the table had its last column
        self._rows, self._of_rows = self._place(chunks[""], np.uint64, reads)
        self._values, self._of_values = self._place(chunks[VALUES], np.float32, reads)
        self._emptied: dict[int, list[U32]] = {}
        for chunk in chunks[EMPTIED]:
            _check(chunk, np.uint32, 1)
            runs: U32 = np.empty(chunk.shape, np.uint32)
            self._emptied.setdefault(chunk.layer, []).append(runs)
            reads.append((chunk, runs))

    def _place(self, chunks: list[Chunk], dtype: type, reads: Reads) -> tuple[Array, dict[int, tuple[int, int]]]:
        """An array [n, width] for all these, and first and past-last row of each layer, the newest first."""
        for chunk in chunks:
            _check(chunk, dtype, 2)
        width, total = (max((c.shape[1] for c in chunks), default=0), sum(c.shape[0] for c in chunks))
        array: Array = np.empty((total, width), dtype)
        end = 0
        layers: dict[int, tuple[int, int]] = {}
        for layer, of_layer in groupby(sorted(chunks, key=lambda c: -c.layer), key=lambda c: c.layer):
            begin = end
            for chunk in of_layer:
                target = slice(end, end + chunk.shape[0])
                end = target.stop
                if chunk.shape[1] == width:
                    reads.append((chunk, array[target]))
                else:
                    self._narrow.append((target, np.empty(chunk.shape, np.uint64)))
                    reads.append((chunk, self._narrow[-1][1]))
            layers[layer] = begin, end
        return array, layers

    def merged(self, footer: TableFooter) -> Arrays:
        """Rows and values once all is read. Raises Damaged."""
        for target, rows in self._narrow:
            self._rows[target, : rows.shape[1]] = rows
            self._rows[target, rows.shape[1] :] = 0
        if not BITS_MIN <= footer.bits <= BITS_MAX:
            raise Damaged(f"{self._name} has runs of {footer.bits} bits")
        numbers = sorted(self._of_rows.keys() | self._of_values.keys() | self._emptied.keys(), reverse=True)
        none = [np.zeros(0, np.uint32)]
        layers = [
            Layer(
                self._of_rows.get(number, (0, 0)),
                self._of_values.get(number, (0, 0)),
                np.concatenate(self._emptied.get(number, none)),
            )
            for number in numbers
        ]
        if any((layer.emptied >= 1 << footer.bits).any() for layer in layers):
            raise Damaged(f"{self._name} names runs that there aren't")
        values: F32 = self._values if self._has_values else NO_VALUES
        for layer in layers if self._has_values else ():
            (a, b), (c, d) = layer.rows, layer.values
            if np.count_nonzero(self._rows[a:b, 1]) != d - c:
                raise Damaged(f"{self._name} has {d - c} values in a layer, and names others")
        rows, values = merge(self._rows, values, layers, footer.bits)
        if len(rows) != footer.keys:
            raise Damaged(f"{self._name} has {len(rows)} keys, and had {footer.keys}")
        return {self._name: rows} | ({self._name + VALUES: values} if self._has_values else {})


def _check(chunk: Chunk, dtype: type, ndim: int) -> None:
    """Raises Damaged when a chunk isn't of this dtype, or has another number of dimensions."""
    if len(chunk.shape) != ndim or np.dtype(chunk.dtype) != dtype:
        raise Damaged(f"{chunk.name} has dtype {chunk.dtype} and shape {chunk.shape}")
