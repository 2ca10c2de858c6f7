"""Pages that are held out from learning: a share of all, by hash of the page.

All items of a page go together, whenever their labels come: so a page's ranking can be judged, and a correction never
is learned whose negative wasn't. Which pages they are depends on nothing but the page and the share.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from learner.training.example_batch import ExampleBatch
from learner.training.ranking_kernels import KEY
from stream.tables.dtypes import I64, U64, Bools
from stream.tables.hash_kernels import mix
from stream.tables.jit import kernel

SALT: Final = np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass(slots=True)
class HeldOutExamples:
    """The held-out examples of R records: H of N. `identities`: of pages, as `ranking_progress.PageColumns`."""

    which: Bools  # bool[N], of all examples
    ids: U64  # u64[N], of all examples
    ends: I64  # i64[R + 1]: record r has ids[ends[r]:ends[r + 1]]
    examples: ExampleBatch  # H examples
    own_ends: I64  # i64[R + 1]: record r has examples own_ends[r]:own_ends[r + 1]
    identities: I64  # i64[pages, 3]


@dataclass(frozen=True)
class Holdout:
    """Holds out this share of pages."""

    share: float

    def pages(self, identities: I64) -> Bools:
        """Which pages are held out, bool [pages]; `identities` int64 [pages, 3]."""
        return _pages(identities, np.uint64(min(int(self.share * 2.0**64), 2**64 - 1)))

    def split(self, examples: ExampleBatch, ends: I64, identities: I64) -> HeldOutExamples | None:
        """The held-out examples of records that end at `ends`; None: there is none."""
        if not self.share:
            return None
        pages = self.pages(identities)
        if not pages.any():
            return None
        which = pages[examples.pages.page]
        return HeldOutExamples(which, examples.ids, ends, examples.take(which), _ends(which, ends), identities)


def learned_part(examples: ExampleBatch, ends: I64, held_out: HeldOutExamples | None) -> tuple[ExampleBatch, I64]:
    """What is learned of examples, and where records end in it."""
    if held_out is None:
        return examples, ends
    return examples.take(~held_out.which), _ends(~held_out.which, ends)


def _ends(which: Bools, ends: I64) -> I64:
    """Where records end among these examples only."""
    found: I64 = np.append(0, np.cumsum(which))[ends]
    return found


@kernel
def _pages(identities: I64, limit: np.uint64) -> Bools:
    found = np.empty(identities.shape[0], np.bool_)
    for p in range(identities.shape[0]):
        found[p] = mix(SALT, np.uint64(identities[p, KEY])) < limit
    return found
