"""What is told of a page, and when: the policies. A label told is told again only when it changes."""

from collections.abc import Iterable
from functools import cache
from typing import Literal

from stream.events import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED
from stream.joiner.join_state import PendingInstall
from stream.joiner.labels import LabelBatch, Row
from stream.joiner.raw_impression import CLOSED, SILENT, RawImpression

Policy = Literal["wait", "eager", "fake_negative"]


@cache  # shared, so that a page needs no number of its own
def _all_told(size: int) -> int:
    return (1 << size) - 1


class Labeller:
    """Turns what happens to a page into labels. `ingest_ms`: when the record came that is the cause.

    With `holding`, an install keeps the record of the page that it has: a restart must find both.
    """

    def __init__(self, policy: Policy, holding: bool = False) -> None:
        self._holds = int(holding)
        self._waits = policy == "wait"
        self._tells_first = policy == "fake_negative"

    def open(self, page: RawImpression, waiting: bool, ingest_ms: int, rows: list[Row], said: list[LabelBatch]) -> None:
        """A page has come; `waiting`: installs that may be its own came before it, so more rows will follow."""
        if not self._tells_first:
            return
        if waiting:
            self._tell_rest(page, ingest_ms, rows)
        else:
            page.told = _all_told(page.size)
            if not page.state & SILENT:
                said.append(LabelBatch(page, None, ingest_ms))

    def close(self, pages: Iterable[RawImpression], ingest_ms: int, said: list[LabelBatch]) -> None:
        """The windows of these pages are over: tell what is still untold."""
        for page in pages:
            page.state |= CLOSED
            if page.told or page.installs:
                rows: list[Row] = []
                self._tell_rest(page, ingest_ms, rows)
                self.say(page, rows, ingest_ms, said)
            else:
                page.told = _all_told(page.size)
                if not page.state & SILENT:
                    said.append(LabelBatch(page, None, ingest_ms))

    def attach(self, page: RawImpression, position: int, one: PendingInstall, ingest_ms: int, rows: list[Row]) -> None:
        """An install belongs to this page now."""
        one.page = page
        page.mark.refcount += self._holds
        page.installs += ((position, one.install.install_id, one.ingest_ms),)
        self._relabel(page, position, one, ingest_ms, rows)

    def detach(self, one: PendingInstall, ingest_ms: int, said: list[LabelBatch]) -> None:
        """An install was taken back, or found a better page: it leaves the page that it has, if any."""
        page = one.page
        if page is None:
            return
        self.let_go(one)
        one.page = None
        position = page.position_of(one.install.item)
        place = page.installs.index((position, one.install.install_id, one.ingest_ms))
        page.installs = page.installs[:place] + page.installs[place + 1 :]
        rows: list[Row] = []
        self._relabel(page, position, one, ingest_ms, rows)
        self.say(page, rows, ingest_ms, said)

    def let_go(self, one: PendingInstall) -> None:
        """An install leaves its page, or is forgotten."""
        if one.page is not None:
            one.page.mark.refcount -= self._holds

    def say(self, page: RawImpression, rows: list[Row], ingest_ms: int, said: list[LabelBatch]) -> None:
        """Tell these rows, if there are any and the page has a say."""
        if rows and not page.state & SILENT:
            said.append(LabelBatch(page, rows, ingest_ms))

    def _relabel(
        self, page: RawImpression, position: int, cause: PendingInstall, ingest_ms: int, rows: list[Row]
    ) -> None:
        """Tell the label at `position` if it differs from the one told and the policy wants it told now."""
        bit = 1 << position
        label = bit if any(place == position for place, *_ in page.installs) else 0
        told = page.told & bit
        if told:
            if label == page.labels & bit:
                return
        elif not label or self._waits:
            return  # told at the close
        # Whoever sums up counts an example with its first label and corrects it with a late positive or a retraction.
        first = not told and not page.state & CLOSED
        reason = RETRACTION if not label else INSTALLED if first else LATE_POSITIVE
        page.told |= bit
        page.labels = page.labels & ~bit | label
        rows.append((position, 1 if label else 0, reason, cause.install.install_id, ingest_ms))

    def _tell_rest(self, page: RawImpression, ingest_ms: int, rows: list[Row]) -> None:
        """Tell every label that wasn't told yet."""
        for position in range(page.size):
            bit = 1 << position
            if page.told & bit:
                continue
            first = next((entry for entry in page.installs if entry[0] == position), None)
            if first is not None:
                _, install_id, came_ms = first
                rows.append((position, 1, INSTALLED, install_id, came_ms))
                page.labels |= bit
            else:
                rows.append((position, 0, WINDOW_CLOSED, "", ingest_ms))
            page.told |= bit
