"""Counts pages, impressions and net installs by arm and user from the records of `examples`."""

from array import array
from typing import Final

import msgspec
import numpy as np
import xxhash

from stream.events.codec import decode_examples
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples
from stream.log.protocol import Record
from thalweg.experiment.arm_counts import ArmCounts
from thalweg.onboarding.recent_map import RecentMap

NO_VARIANT: Final = "(none)"  # the arm of pages without a variant
PAGES_MAX: Final = 500_000  # of a generation: one to two generations are remembered
FIRST_LABELS: Final = INSTALLED, WINDOW_CLOSED


class _Page(msgspec.Struct, gc=False):
    """A page's labels so far; bit k of a mask is position k."""

    size: int
    slot: int  # of the user, in its arm
    labelled: int = 0  # mask of positions with a first label
    installed: int = 0  # mask of positions whose newest label is an install
    corrections: tuple[int, ...] = ()  # ids

    @property
    def is_finished(self) -> bool:
        return self.labelled.bit_count() == self.size


class _Totals:
    """Finished pages of one arm: a slot for each user."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self.pages, self.impressions, self.installs = array("q"), array("q"), array("q")

    def slot_of(self, user: str) -> int:
        slot = self.slots.setdefault(user, len(self.pages))
        if slot == len(self.pages):
            for column in (self.pages, self.impressions, self.installs):
                column.append(0)
        return slot


class LiveCounts:
    """Add every record of `examples` in log order; read the counts at any time.

    A page counts once each of its items has a first label: with the policy `eager`, positives are emitted before the
    negatives. Then its installs count, and corrections (late positives, retractions) change them. Duplicates are
    dropped as long as the page is remembered: the newest `pages_max` to 2 * `pages_max` are. A duplicate of an older
    page would count again; a correction of one is left out, and counted.

    A page that repeats items of an earlier one under its request id never gets labels for them: it stays unfinished.

    Memory: some 0.2 kB for each page that is remembered, and as much for each user of each arm.
    """

    def __init__(self, pages_max: int = PAGES_MAX) -> None:
        self.pages = self.finished = self.duplicates = self.corrections_left_out = self.unreadable = 0
        self._pages: RecentMap[_Page] = RecentMap(pages_max)
        self._arms: dict[str, _Totals] = {}

    @property
    def unfinished(self) -> int:
        """Pages with items that have no label yet."""
        return self.pages - self.finished

    @property
    def users_in_several_arms(self) -> int:
        """Users who have seen pages of more than one arm: their assignment changed, or isn't by user."""
        seen, several = set[str](), set[str]()
        for totals in (totals for arm, totals in self._arms.items() if arm != NO_VARIANT):
            several |= seen & totals.slots.keys()
            seen |= totals.slots.keys()
        return len(several)

    def arms(self) -> list[ArmCounts]:
        """Finished pages by arm, in order of names."""
        return [
            ArmCounts(arm, np.array(one.pages), np.array(one.impressions), np.array(one.installs, np.float64))
            for arm, one in sorted(self._arms.items())
        ]

    def add(self, record: Record) -> None:
        """Add one record. Organic installs belong to no page and don't count."""
        found, bad = decode_examples(record.value or b"")
        self.unreadable += len(bad)
        for examples in found:
            self._add(examples)

    def _add(self, examples: Examples) -> None:
        shown = examples.page
        identity = (shown.variant, shown.user, shown.request_id, *shown.items)
        key = xxhash.xxh3_64_intdigest("\x00".join(identity).encode())
        totals = self._arms.setdefault(shown.variant or NO_VARIANT, _Totals())
        page = self._pages.get(key)
        if page is None:
            if not any(reason in FIRST_LABELS for reason in examples.reasons):
                self.corrections_left_out += len(examples.ids)
                return
            page = _Page(len(shown.items), totals.slot_of(shown.user))
            self._pages.put(key, page)
            self.pages += 1
        was_finished, before = page.is_finished, page.installed.bit_count()
        self._label(page, examples)
        if page.is_finished:
            totals.installs[page.slot] += page.installed.bit_count() - (before if was_finished else 0)
            if not was_finished:
                self.finished += 1
                totals.pages[page.slot] += 1
                totals.impressions[page.slot] += page.size

    def _label(self, page: _Page, examples: Examples) -> None:
        """Set the newest label of each position. A first label is a duplicate where its position has one."""
        columns = zip(examples.ids, examples.positions, examples.labels, examples.reasons, strict=True)
        for example_id, position, label, reason in columns:
            bit = 1 << position
            if reason in FIRST_LABELS:
                is_duplicate = bool(page.labelled & bit)
                page.labelled |= bit
            else:
                is_duplicate = example_id in page.corrections
                page.corrections += (example_id,) * (not is_duplicate)
            if is_duplicate:
                self.duplicates += 1
            else:
                page.installed = page.installed | bit if label else page.installed & ~bit
