"""Hash tables' values as of one time: copied run by run of hashes, then only read.

Keys lie in order of the leading bits of their hash (`hash32`), some to a *bucket*; values beside them. So a copy is two
arrays without gaps, which a file can have as they are.
"""

from typing import Any, Final

import numpy as np

from stream.tables.dtypes import F32, I64, U32, U64
from stream.tables.hash_kernels import CHANGED, MOVED, hash32, home_of
from stream.tables.hash_table import HashTable
from stream.tables.jit import kernel

BUCKET_KEYS: Final = 4  # of a bucket, on average
HASHES: Final = 1 << 32


class FrozenTable:
    """Values float32 [n, d] by key, uint64 [n] in order of buckets. Raises ValueError for keys in another order.

    `starts`: where each bucket begins, if that is known.
    """

    def __init__(self, keys: U64, values: F32, bits: int, starts: U32 | None = None) -> None:
        if values.shape[:1] != keys.shape or not 0 <= bits <= 32:
            raise ValueError(f"keys of shape {keys.shape}, values of shape {values.shape}, {bits} bits")
        self.keys, self.values, self.bits = keys, values, bits
        if starts is None:
            starts = np.zeros((1 << bits) + 1, np.uint32)
            last = _extend(starts, keys, 0, 0, bits)
            if last < 0:
                raise ValueError("keys aren't in the order of their hashes")
            starts[last + 1 :] = len(keys)
        self._starts = starts  # u32[buckets + 1]

    def rows_of(self, keys: U64) -> I64:
        """The row of each key in `values`; −1: there is none."""
        return _rows_of(self.keys, self._starts, keys)

    def without(self, keys: U64) -> "FrozenTable":
        """The same without these keys; itself, if it has none of them."""
        rows = self.rows_of(keys)
        rows = rows[rows >= 0]
        if not len(rows):
            return self
        return FrozenTable(np.delete(self.keys, rows), np.delete(self.values, rows, axis=0), self.bits)

    def arrays(self) -> dict[str, Any]:
        """The arrays themselves, which nothing changes."""
        return {"keys": self.keys, "values": self.values, "bits": np.array([self.bits], np.int64)}


class TableCopy:
    """A `FrozenTable` being copied. `keys`: about how many there will be; `dim`: of a value."""

    def __init__(self, keys: int, dim: int) -> None:
        self.bits = min(max((keys // BUCKET_KEYS).bit_length(), 10), 28)
        self._next = self._count = 0  # hash from which on nothing was copied yet; keys copied
        room = keys + keys // 8 + 1_024
        self._keys, self._values = np.empty(room, np.uint64), np.empty((room, dim), np.float32)
        self._starts, self._bucket = np.zeros((1 << self.bits) + 1, np.uint32), 0  # of buckets up to this one

    @property
    def is_done(self) -> bool:
        """Whether all hashes were copied."""
        return self._next == HASHES

    def rows(self, table: HashTable, keys: int) -> U64:
        """Rows of the next hashes, about `keys` of them, in order; `add` takes those to keep."""
        shift = 32 - self.bits
        step = HASHES * keys // max(1, len(table)) >> shift << shift  # whatever the table's layout
        last = min(self._next + max(step, 1 << shift), HASHES)
        hashes = np.uint64(self._next), np.uint64(last)
        found = [_rows_between(slots, *hashes) for slots in (table.slots, table.old) if len(slots) > 1]
        self._next = last
        return _in_order(found[0] if len(found) == 1 else np.concatenate(found), *hashes, shift)

    def add(self, keys: U64, values: F32) -> None:
        """Append keys and their values."""
        end = self._count + len(keys)
        if end > len(self._keys):
            more = max(end - len(self._keys), len(self._keys) // 4)
            self._keys = np.concatenate([self._keys, np.empty(more, np.uint64)])
            self._values = np.concatenate([self._values, np.empty((more, self._values.shape[1]), np.float32)])
        self._keys[self._count : end], self._values[self._count : end] = keys, values
        self._bucket = _extend(self._starts, keys, self._bucket, self._count, self.bits)
        assert self._bucket >= 0, "runs come in order"
        self._count = end

    def frozen(self) -> FrozenTable:
        """All that was copied."""
        assert self.is_done
        self._starts[self._bucket + 1 :] = self._count
        return FrozenTable(self._keys[: self._count], self._values[: self._count], self.bits, self._starts)

    def without(self, keys: U64) -> "TableCopy":
        """The same without these keys, of which more may follow; itself, if it has none of them."""
        copied, values, starts = self._keys[: self._count], self._values[: self._count], self._starts.copy()
        starts[self._bucket + 1 :] = self._count
        rows = _rows_of(copied, starts, keys)
        rows = rows[rows >= 0]
        if not len(rows):
            return self
        state = np.array([self.bits, self._next, 0], np.int64)
        return TableCopy.of(np.delete(copied, rows), np.delete(values, rows, axis=0), state)

    def arrays(self) -> dict[str, Any]:
        """What was copied so far."""
        state = np.array([self.bits, self._next, self._count], np.int64)
        return {"keys": self._keys[: self._count], "values": self._values[: self._count], "state": state}

    @classmethod
    def of(cls, keys: U64, values: F32, state: I64) -> "TableCopy":
        """Resume from what `arrays` gave."""
        copy = cls(len(keys), values.shape[1])
        copy.bits, copy._next, _ = map(int, state)
        copy._starts = np.zeros((1 << copy.bits) + 1, np.uint32)
        copy.add(keys, values)
        return copy


@kernel
def _rows_between(slots: U64, first: np.uint64, last: np.uint64) -> U64:
    """Rows whose `hash32` is from `first` to below `last`, without CHANGED."""
    capacity, width = slots.shape
    start: Any = np.int64(home_of(slots, first))
    end: Any = np.int64(home_of(slots, last - np.uint64(1))) + 1
    while end < start + capacity and slots[end & (capacity - 1), 0] != np.uint64(0):
        end += 1
    rows, count = np.empty((end - start, width), np.uint64), 0
    for i in range(start, end):
        s = i & (capacity - 1)
        key = slots[s, 0]
        if key == np.uint64(0) or key == MOVED:
            continue
        hashed = hash32(key)
        if hashed < first or hashed >= last:
            continue
        for c in range(width):
            rows[count, c] = slots[s, c]
        if width > 1:
            rows[count, 1] &= ~CHANGED
        count += 1
    return rows[:count]


@kernel
def _in_order(rows: U64, first: np.uint64, last: np.uint64, shift: int) -> U64:
    """The rows by bucket, their hash without the lowest `shift` bits; within a bucket by key."""
    base = np.int64(first >> np.uint64(shift))
    buckets = np.int64((last - np.uint64(1)) >> np.uint64(shift)) + 1 - base
    ends = np.zeros(buckets + 1, np.int64)
    for r in range(rows.shape[0]):
        ends[np.int64(hash32(rows[r, 0]) >> np.uint64(shift)) - base + 1] += 1
    for b in range(buckets):
        ends[b + 1] += ends[b]
    begins, found = ends.copy(), np.empty_like(rows)
    for r in range(rows.shape[0]):
        bucket = np.int64(hash32(rows[r, 0]) >> np.uint64(shift)) - base
        at = ends[bucket]
        while at > begins[bucket] and found[at - 1, 0] > rows[r, 0]:
            for c in range(rows.shape[1]):
                found[at, c] = found[at - 1, c]
            at -= 1
        for c in range(rows.shape[1]):
            found[at, c] = rows[r, c]
        ends[bucket] += 1
    return found


@kernel
def _extend(starts: U32, keys: U64, bucket: int, count: int, bits: int) -> int:
    """Write where buckets begin, for keys that follow `count` keys, of which the last is in this bucket.

    Returns the last key's bucket; −1: the keys aren't in order.
    """
    for k in range(keys.shape[0]):
        b = np.int64(hash32(keys[k]) >> np.uint64(32 - bits))
        if b < bucket:
            return -1
        while bucket < b:
            bucket += 1
            starts[bucket] = count + k
    return bucket


@kernel
def _rows_of(keys: U64, starts: U32, wanted: U64) -> I64:
    buckets = np.uint64(starts.shape[0] - 1)
    found = np.full(wanted.shape[0], -1, np.int64)
    for w in range(wanted.shape[0]):
        b = (hash32(wanted[w]) * buckets) >> np.uint64(32)
        for k in range(starts[b], starts[b + np.uint64(1)]):
            if keys[k] == wanted[w]:
                found[w] = k
                break
    return found
