"""Records of pages and installs by patching the digits in encoded templates: millions of pages a second, no objects.

Widths are fixed, so all pages of a template have one length; the kernels read them as they read any producer's.
"""

import random
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.events.types import Impression, Install

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]

ITEMS: Final = 10
ITEM_NAMES: Final = 50_000
FEATURES: Final = 64  # different feature columns
CHUNK: Final = 16_384  # pages made at once
# Placeholders that stand nowhere else in a template: request, user, items, install, event time.
REQUEST, USER, INSTALL, TIME_MS = "1234567890", "9876543210", "5647382910", 0x0102030405060708
FIVE_DIGITS: Final = np.frombuffer(b"".join(b"%05d" % k for k in range(100_000)), np.uint8).reshape(-1, 5)
INSTALLS_A_RECORD: Final = (3, 3, 3, 3, 4)  # of 64 pages: one after 20


class PageTemplate:
    """A page of ten items, thin (ids only) or full (with features), and an install of one of them."""

    def __init__(self, features_bytes: int = 0, seed: int = 7) -> None:
        items = [f"item-{60_000 + k}" for k in range(ITEMS)]
        thin = Impression(f"r{REQUEST}", TIME_MS, f"u{USER}", items)
        self._pool: Bytes | None = None
        if features_bytes:
            rng = random.Random(seed)
            raw = b"".join(rng.randbytes(features_bytes) for _ in range(FEATURES))
            self._pool = np.frombuffer(raw, np.uint8).reshape(FEATURES, features_bytes)
            first = self._pool[0].tobytes()
            page = msgspec.structs.replace(thin, variant="control", version=7, features=first)
        else:
            page = thin
        self.page: Final = msgspec.msgpack.encode(page)
        self._features_at = self.page.index(self._pool[0].tobytes()) if self._pool is not None else 0
        self._items_at = [self.page.index(item.encode()) + 5 for item in items]
        self.install: Final = msgspec.msgpack.encode(Install(f"u{USER}", items[0], TIME_MS, f"i{INSTALL}"))

    def pages(self, numbers: Numbers, users: Numbers, items: Numbers, times_ms: Numbers) -> Bytes:
        """Encoded pages, uint8 [pages, bytes a page]; `items`: the first of ten that follow each other."""
        out = np.tile(np.frombuffer(self.page, np.uint8), (len(numbers), 1))
        _digits(out, self.page.index(REQUEST.encode()), numbers, len(REQUEST))
        _digits(out, self.page.index(USER.encode()), users, len(USER))
        _time(out, self.page, times_ms)
        for k, at in enumerate(self._items_at):
            _digits(out, at, items + k, 5)
        if self._pool is not None:
            at, size = self._features_at, self._pool.shape[1]
            out[:, at : at + size] = self._pool[numbers % FEATURES]
        return out

    def installs(self, numbers: Numbers, users: Numbers, items: Numbers, times_ms: Numbers) -> Bytes:
        """Encoded installs, uint8 [installs, bytes an install]."""
        out = np.tile(np.frombuffer(self.install, np.uint8), (len(numbers), 1))
        _digits(out, self.install.index(INSTALL.encode()), numbers, len(INSTALL))
        _digits(out, self.install.index(USER.encode()), users, len(USER))
        _digits(out, self.install.index(b"item-") + 5, items, 5)
        _time(out, self.install, times_ms)
        return out

    def records(
        self, count: int, pack: int, users: int | Numbers, begin_ms: int, pages_a_ms: int, seed: int = 7
    ) -> Iterator[bytes]:
        """Records of `pack` pages (a multiple of 64), a twentieth as many installs of them at each record's end.

        `users`: their number, or their ids.

        Event time advances evenly. A remainder of `count` that fills no record is left out.
        """
        assert pack % 64 == 0, pack
        rng = np.random.default_rng(seed)
        installs = [sum(INSTALLS_A_RECORD[(n + k) % 5] for k in range(pack // 64)) for n in range(5)]
        for first in range(0, count, CHUNK - CHUNK % pack):
            numbers = np.arange(first, min(count, first + CHUNK - CHUNK % pack), dtype=np.int64)
            whose, items = rng.choice(users, len(numbers)), rng.integers(0, ITEM_NAMES, len(numbers))
            times_ms = begin_ms + numbers // pages_a_ms
            pages = self.pages(numbers, whose, items, times_ms)
            for at in range(0, len(numbers) - pack + 1, pack):
                some = installs[(first + at) // pack % 5]
                of = at + rng.integers(0, pack, some)
                last = np.full(some, times_ms[at + pack - 1])
                mine = self.installs(numbers[of], whose[of], items[of] + of % ITEMS, last)
                head = b"\xdc" + (pack + some).to_bytes(2, "big")
                yield b"".join((head, pages[at : at + pack].tobytes(), mine.tobytes()))


def _digits(out: Bytes, at: int, numbers: Any, width: int) -> None:
    """Write numbers as decimal digits into the `width` columns from `at` on, five digits at a time."""
    for k in range(at + width - 5, at - 1, -5):
        numbers, five = np.divmod(numbers, 100_000) if k > at else (numbers, numbers)
        out[:, k : k + 5] = FIVE_DIGITS[five]


def _time(out: Bytes, template: bytes, times_ms: Numbers) -> None:
    at = template.index(TIME_MS.to_bytes(8, "big"))
    out[:, at : at + 8] = times_ms.astype(">u8").view(np.uint8).reshape(-1, 8)
