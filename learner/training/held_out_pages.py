"""Held-out pages that wait until their labels are final: all of them are there, and none is expected to change.

So a page is judged once, whole, by its final labels, under every policy: corrections (of `fake_negative`, of late
installs, of retractions) are in before. One that never gets all its labels is judged by those that it has, when its
window has passed. Memory is bounded: above PAGES_MAX waiting pages, further ones aren't judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from learner.training.example_batch import Selection, are_corrections
from learner.training.holdout import HeldOutExamples
from learner.training.ranking_kernels import KEY, SIZE, USER
from stream.features.encoder import Batch
from stream.tables.dtypes import F32, I64, U64, Bools

PAGES_MAX: Final = 8_192
LATE_MS: Final = 60_000  # labels may come so much later than they should, by the event time of learned pages
NONE: Final = np.float32(-1.0)  # instead of a label that hasn't come


@dataclass(slots=True)
class HeldOutPage:
    """A page of n items. `labels` float32 [n], NONE: hasn't come; `weights` float32 [n]."""

    key: int
    user: int
    time_ms: int
    words: U64  # features
    labels: F32
    weights: F32
    missing: int  # labels that haven't come


@dataclass(frozen=True)
class LabelledPages:
    """Pages to judge, and their B examples that have a label."""

    batch: Batch
    pages: I64  # i64[B], keys
    users: I64  # i64[B]
    labels: F32  # f32[B]
    weights: F32  # f32[B]


class HeldOutPages:
    """Pages that wait. `labels_ms`: how long labels of a page may come; `settles`: they may change until then."""

    def __init__(self, labels_ms: int, *, settles: bool) -> None:
        self._life_ms, self._settles = labels_ms + LATE_MS, settles
        self._waiting: dict[int, HeldOutPage] = {}
        self._complete: list[HeldOutPage] = []  # in order; only where labels don't change
        self.dropped = 0  # examples whose page found no room

    def __len__(self) -> int:
        return len(self._waiting) + len(self._complete)

    def add(self, held_out: HeldOutExamples, which: Selection, words: U64, ends: I64) -> None:
        """Add the labels of these held-out examples; page p has words[ends[p]:ends[p + 1]].

        A correction of a page that was judged already, or never had room, comes too late.
        """
        examples = held_out.examples
        columns = (
            examples.pages.page, examples.pages.position, examples.labels, examples.weights, examples.time_ms,
            are_corrections(examples.reasons),
        )  # fmt: skip
        rows = zip(*(column[which].tolist() for column in columns), strict=True)
        for page, position, label, weight, time_ms, corrects in rows:
            identity = held_out.identities[page]
            key = int(identity[KEY])
            found = self._waiting.get(key)
            if found is None:
                if corrects:
                    continue
                if len(self) >= PAGES_MAX:
                    self.dropped += 1
                    continue
                size = int(identity[SIZE])
                found = self._waiting[key] = HeldOutPage(
                    key, int(identity[USER]), int(time_ms), words[ends[page] : ends[page + 1]].copy(),
                    np.full(size, NONE), np.ones(size, np.float32), size,
                )  # fmt: skip
            if found.labels[position] == NONE:
                found.missing -= 1
                found.weights[position] = weight
            found.labels[position] = label
            if not found.missing and not self._settles:
                self._complete.append(self._waiting.pop(key))

    def erase(self, user: np.uint64) -> int:
        """Drop the pages that have this user's id; returns how many."""
        before = len(self)
        self._complete = [page for page in self._complete if user not in page.words]
        self._waiting = {key: page for key, page in self._waiting.items() if user not in page.words}
        return before - len(self)

    def take(self, watermark_ms: int) -> LabelledPages | None:
        """Remove and return pages whose labels are final at this event time; None: there is none."""
        over = [key for key, page in self._waiting.items() if page.time_ms + self._life_ms <= watermark_ms]
        taken, self._complete = self._complete + [self._waiting.pop(key) for key in over], []
        if not taken:
            return None
        labels = np.concatenate([page.labels for page in taken])
        weights = np.concatenate([page.weights for page in taken])
        sizes = np.array([len(page.labels) for page in taken])
        number = np.repeat(np.arange(len(taken)), sizes)
        position = np.arange(len(labels)) - (np.cumsum(sizes) - sizes)[number]
        known: Bools = labels != NONE
        starts = np.cumsum([0, *(len(page.words) for page in taken)])
        words = np.concatenate([page.words for page in taken])
        keys, users = (np.array([getattr(page, name) for page in taken], np.int64) for name in ("key", "user"))
        return LabelledPages(
            Batch(words, starts, number[known], position[known]),
            keys[number[known]], users[number[known]], labels[known], weights[known],
        )  # fmt: skip

    def arrays(self) -> dict[str, Any]:
        """All pages that wait, in order."""
        pages = [*self._complete, *self._waiting.values()]
        heads = [(p.key, p.user, p.time_ms, len(p.labels), len(p.words), p.missing) for p in pages]
        return {
            "heads": np.array(heads, np.int64).reshape(-1, 6),
            "words": np.concatenate([np.zeros(0, np.uint64), *(p.words for p in pages)]),
            "labels": np.concatenate([np.zeros(0, np.float32), *(p.labels for p in pages)]),
            "weights": np.concatenate([np.zeros(0, np.float32), *(p.weights for p in pages)]),
            "counts": np.array([len(self._complete), self.dropped], np.int64),
        }

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Resume from what `arrays` gave."""
        complete, self.dropped = arrays["counts"].tolist()
        pages, word, item = list[HeldOutPage](), 0, 0
        for key, user, time_ms, size, words, missing in arrays["heads"].tolist():
            items = slice(item, item + size)
            pages.append(
                HeldOutPage(
                    key,
                    user,
                    time_ms,
                    arrays["words"][word : word + words].copy(),
                    arrays["labels"][items].copy(),
                    arrays["weights"][items].copy(),
                    missing,
                )
            )
            word, item = word + words, item + size
        self._complete = pages[:complete]
        self._waiting = {page.key: page for page in pages[complete:]}
