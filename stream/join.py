"""The join: pages and installs of one partition become labelled examples. Pure: no clock, no I/O.

Whose install it is: the page that its request id names, else the newest page (greatest event time, then
order in the log) of that user with that item; in both cases only with `page time <= install time < page time
+ window`. The end is exclusive, so that an install in time order always finds its window open.

Three things happen to a page as the *watermark* (greatest event time seen, minus lateness) passes:
at `time + window` it closes and the labels still untold are told; until `time + window + known` it can be
corrected (late positives, retractions, a late page's own labels); then it is forgotten. Installs and
retractions are remembered by the same formula, so whatever a page needs is remembered as long as the page.

**Restarts.** A checkpoint is (offset, watermark before that record, event time up to which all is finished).
A joiner that starts there reads a suffix of the log with nothing remembered, and still tells no other label:
* A page later than `finished` was remembered when the checkpoint was taken, and so were its installs (they
  aren't older): all of them stand at or behind the offset.
* A page not later than `finished` has had its say. Read again, it takes installs but stays silent. An install
  whose page isn't read again can only fall to an older page, which is finished too.
* What is late and what is taken in is decided by the watermark, which is the same again.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stream.events import (
    INSTALLED,
    LATE_POSITIVE,
    RETRACTION,
    WINDOW_CLOSED,
    Examples,
    Impression,
    Install,
    SourceEvent,
    example_id,
)
from stream.spec import Spec, duration_ms

Policy = Literal["wait", "eager", "fake_negative"]


@dataclass(frozen=True)
class LabelRules:
    """How labels are told; event time in ms.

    `wait`: every label when the window closes. `eager`: a positive at once, negatives at the close.
    `fake_negative`: all negative at once (told as `window_closed`), a (late) positive when it comes.
    `known_ms`: how long after its close a page can still be corrected.
    """

    policy: Policy = "eager"
    window_ms: int = 2_000
    lateness_ms: int = 0
    known_ms: int = 2_000

    @property
    def life_ms(self) -> int:
        """How long anything is remembered, counted from its event time by the watermark."""
        return self.window_ms + self.known_ms


def label_rules(spec: Spec) -> LabelRules:
    """The spec's rules of the join."""
    label = spec.label
    return LabelRules(label.policy, duration_ms(label.window), duration_ms(label.lateness))


@dataclass
class Counts:
    """What a joiner has met since it was made (a restart counts what it reads again)."""

    pages: int = 0
    installs: int = 0
    ticks: int = 0
    duplicate: int = 0  # a page or install that is remembered already
    late: int = 0  # older than anything that is remembered: dropped
    early: int = 0  # an install that stood in the log before its page
    organic: int = 0  # an install that no page ever claimed
    retracted: int = 0  # an install taken back


@dataclass(frozen=True)
class Checkpoint:
    """Where a new joiner may start: next record, watermark before it, event time up to which all is told."""

    offset: int
    watermark_ms: int
    finished_ms: int


class _Mark:
    """A record with something in it that is still remembered."""

    __slots__ = ("living", "offset", "watermark_ms")

    def __init__(self, offset: int, watermark_ms: int) -> None:
        self.offset = offset
        self.watermark_ms = watermark_ms
        self.living = 0


class _Page:
    """A page with the installs it has at each position and the labels that were told."""

    __slots__ = ("closed", "due_ms", "installs", "mark", "page", "seq", "silent", "told")

    def __init__(self, page: Impression, seq: int, mark: _Mark, silent: bool) -> None:
        self.page = page
        self.seq = seq
        self.mark = mark
        self.silent = silent  # finished before a restart, or forgotten: says nothing
        self.closed = False
        self.installs: dict[int, list[_Held]] = {}
        self.told: dict[int, int] = {}


class _Held:
    """An install (or a retraction that came before it) and the page that has it now."""

    __slots__ = ("ingest_ms", "install", "mark", "page", "retracted", "seq")

    def __init__(self, install: Install, seq: int, mark: _Mark, ingest_ms: int) -> None:
        self.install = install
        self.seq = seq
        self.mark = mark
        self.ingest_ms = ingest_ms
        self.page: _Page | None = None
        self.retracted = install.retracted


_Row = tuple[int, int, int, str, int]  # position, label, reason, install id, ingest ms


class Joiner:
    """The join state of one partition. `feed` it every record in offset order."""

    def __init__(self, rules: LabelRules, watermark_ms: int = 0, finished_ms: int = 0) -> None:
        assert rules.window_ms > 0, rules
        assert min(rules.lateness_ms, rules.known_ms) >= 0, rules
        self.rules = rules
        self.watermark_ms = watermark_ms
        self.counts = Counts()
        self.open_pages = 0
        self._finished_ms = finished_ms
        self._seq = 0
        self._marks: deque[_Mark] = deque()
        self._due: list[tuple[int, int, _Page | _Held]] = []
        self._pages: dict[str, _Page] = {}
        self._installs: dict[tuple[str, str], _Held] = {}
        self._pages_of: dict[str, dict[int, _Page]] = {}
        self._installs_of: dict[str, dict[int, _Held]] = {}

    @classmethod
    def start(cls, rules: LabelRules, checkpoint: Checkpoint) -> "Joiner":
        """A joiner that reads on at `checkpoint.offset`."""
        return cls(rules, checkpoint.watermark_ms, checkpoint.finished_ms)

    def feed(self, events: Sequence[SourceEvent], offset: int, ingest_ms: int) -> list[Examples]:
        """Take one record's events; returns the examples that came of them, in a fixed order."""
        assert not self._marks or offset > self._marks[-1].offset, (offset, self._marks[-1].offset)
        said: list[Examples] = []
        mark = _Mark(offset, self.watermark_ms)
        self._marks.append(mark)
        for event in events:
            self._advance(event.time_ms - self.rules.lateness_ms, ingest_ms, said)
            if isinstance(event, Impression):
                self._take_page(event, mark, ingest_ms, said)
            elif isinstance(event, Install):
                self._take_install(event, mark, ingest_ms, said)
            else:
                self.counts.ticks += 1
        while self._marks and not self._marks[0].living:
            self._marks.popleft()
        return said

    def hold_offset(self) -> int | None:
        """The oldest record of which something is still remembered; None: nothing is. Commit up to it, exclusive."""
        return self._marks[0].offset if self._marks else None

    def checkpoint(self, next_offset: int) -> Checkpoint:
        """Where a restart may begin, `next_offset` being the record after the last one fed.

        True only for what was said so far: it may be stored once the log has confirmed all of that.
        """
        finished_ms = max(self._finished_ms, self.watermark_ms - self.rules.life_ms)
        if self._marks:
            return Checkpoint(self._marks[0].offset, self._marks[0].watermark_ms, finished_ms)
        return Checkpoint(next_offset, self.watermark_ms, finished_ms)

    def tick_ms(self, silence_ms: int) -> int:
        """The event time that a silent partition has reached, if event time goes on at the wall's pace."""
        return self.watermark_ms + self.rules.lateness_ms + silence_ms

    def _advance(self, watermark_ms: int, ingest_ms: int, said: list[Examples]) -> None:
        """Move the watermark; close and forget, in order of event time, what it has passed."""
        if watermark_ms <= self.watermark_ms:
            return
        self.watermark_ms = watermark_ms
        due = self._due
        while due and due[0][0] <= watermark_ms:
            at_ms, seq, what = due[0]
            if isinstance(what, _Held):
                heapq.heappop(due)
                self._forget_install(what)
            elif what.closed:
                heapq.heappop(due)
                self._forget_page(what)
            else:
                heapq.heapreplace(due, (at_ms + self.rules.known_ms, seq, what))
                rows: list[_Row] = []
                self._close(what, ingest_ms, rows)
                self._say(what, rows, said)

    def _take_page(self, page: Impression, mark: _Mark, ingest_ms: int, said: list[Examples]) -> None:
        self.counts.pages += 1
        if page.request_id in self._pages:
            self.counts.duplicate += 1
            return
        if page.time_ms + self.rules.life_ms <= self.watermark_ms:
            self.counts.late += 1
            return
        known = _Page(page, self._next(mark), mark, silent=page.time_ms <= self._finished_ms)
        self._pages[page.request_id] = known
        self._pages_of.setdefault(page.user, {})[known.seq] = known
        self.open_pages += 1
        rows: list[_Row] = []
        if self.rules.policy == "fake_negative":
            self._tell_rest(known, ingest_ms, rows)
        for held in self._installs_of.get(page.user, {}).values():
            self._claim(known, held, ingest_ms, rows, said)
        close_ms = page.time_ms + self.rules.window_ms
        if close_ms <= self.watermark_ms:
            self._close(known, ingest_ms, rows)
            close_ms += self.rules.known_ms
        heapq.heappush(self._due, (close_ms, known.seq, known))
        self._say(known, rows, said)

    def _claim(self, known: _Page, held: _Held, ingest_ms: int, rows: list[_Row], said: list[Examples]) -> None:
        """Give an install that came first to this page, if the page is a better one than it has."""
        before = held.page
        if held.retracted or not self._matches(known, held.install):
            return
        if before is not None and (before.page.time_ms, before.seq) > (known.page.time_ms, known.seq):
            return
        if before is None:
            self.counts.early += 1
        else:
            self._detach(held, ingest_ms, said)
        self._attach(known, held, ingest_ms, rows)

    def _take_install(self, install: Install, mark: _Mark, ingest_ms: int, said: list[Examples]) -> None:
        self.counts.installs += 1
        if install.time_ms + self.rules.life_ms <= self.watermark_ms:
            self.counts.late += 1
            return
        key = (install.user, install.install_id)
        known = self._installs.get(key)
        if known is not None and not (known.install.retracted and known.install.time_ms < install.time_ms):
            if install.retracted and not known.retracted and install.time_ms >= known.install.time_ms:
                self.counts.retracted += 1
                known.retracted = True
                self._detach(known, ingest_ms, said)
            else:
                self.counts.duplicate += 1
            return
        if known is not None:
            self._installs_of[install.user].pop(known.seq, None)
        held = _Held(install, self._next(mark), mark, ingest_ms)
        self._hold(held)
        self._installs[key] = held
        self._installs_of.setdefault(install.user, {})[held.seq] = held
        page = None if install.retracted else self._page_for(install)
        if page is not None:
            rows: list[_Row] = []
            self._attach(page, held, ingest_ms, rows)
            self._say(page, rows, said)

    def _hold(self, held: _Held) -> None:
        heapq.heappush(self._due, (held.install.time_ms + self.rules.life_ms, held.seq, held))

    def _matches(self, known: _Page, install: Install) -> bool:
        page = known.page
        return (
            page.time_ms <= install.time_ms < page.time_ms + self.rules.window_ms
            and (not install.request_id or install.request_id == page.request_id)
            and install.item in page.items
        )

    def _page_for(self, install: Install) -> _Page | None:
        """The newest remembered page that this install belongs to."""
        best: _Page | None = None
        for known in self._pages_of.get(install.user, {}).values():
            newer = best is None or (known.page.time_ms, known.seq) > (best.page.time_ms, best.seq)
            if newer and self._matches(known, install):
                best = known
        return best

    def _attach(self, known: _Page, held: _Held, ingest_ms: int, rows: list[_Row]) -> None:
        position = known.page.items.index(held.install.item)
        held.page = known
        known.installs.setdefault(position, []).append(held)
        self._relabel(known, position, held, ingest_ms, rows)

    def _detach(self, held: _Held, ingest_ms: int, said: list[Examples]) -> None:
        known = held.page
        if known is None:
            return
        held.page = None
        position = known.page.items.index(held.install.item)
        known.installs[position].remove(held)
        rows: list[_Row] = []
        self._relabel(known, position, held, ingest_ms, rows)
        self._say(known, rows, said)

    def _relabel(self, known: _Page, position: int, cause: _Held, ingest_ms: int, rows: list[_Row]) -> None:
        """Tell the label at `position` if it differs from the one told and the policy wants it told now."""
        label = 1 if known.installs[position] else 0
        told = known.told.get(position)
        if told == label or (told is None and (label == 0 or self.rules.policy == "wait")):
            return  # untold ones are told at the close
        # Whoever sums up counts an example with its first label and corrects it with a late positive or a retraction.
        first = told is None and not known.closed
        reason = RETRACTION if label == 0 else INSTALLED if first else LATE_POSITIVE
        known.told[position] = label
        rows.append((position, label, reason, cause.install.install_id, ingest_ms))

    def _close(self, known: _Page, ingest_ms: int, rows: list[_Row]) -> None:
        self._tell_rest(known, ingest_ms, rows)
        known.closed = True
        self.open_pages -= 1

    def _tell_rest(self, known: _Page, ingest_ms: int, rows: list[_Row]) -> None:
        """Tell every label that wasn't told yet."""
        told = known.told
        for position in range(len(known.page.items)):
            if position in told:
                continue
            installs = known.installs.get(position)
            if installs:
                first = installs[0]
                rows.append((position, 1, INSTALLED, first.install.install_id, first.ingest_ms))
            else:
                rows.append((position, 0, WINDOW_CLOSED, "", ingest_ms))
            told[position] = 1 if installs else 0

    def _say(self, known: _Page, rows: list[_Row], said: list[Examples]) -> None:
        if not rows or known.silent:
            return
        request_id = known.page.request_id
        positions, labels, reasons, install_ids, ingests = (list(column) for column in zip(*rows, strict=True))
        ids = [example_id(request_id, p, r, i) for p, r, i in zip(positions, reasons, install_ids, strict=True)]
        said.append(Examples(known.page, ids, positions, labels, [1.0] * len(rows), reasons, ingests))

    def _next(self, mark: _Mark) -> int:
        mark.living += 1
        self._seq += 1
        return self._seq

    def _forget_page(self, known: _Page) -> None:
        known.silent = True
        known.mark.living -= 1
        del self._pages[known.page.request_id]
        _drop(self._pages_of, known.page.user, known.seq)

    def _forget_install(self, held: _Held) -> None:
        install = held.install
        held.mark.living -= 1
        if held.page is None and not held.retracted:
            self.counts.organic += 1
        key = (install.user, install.install_id)
        if self._installs.get(key) is held:
            del self._installs[key]
            _drop(self._installs_of, install.user, held.seq)


def _drop(by_user: dict[str, dict[int, Any]], user: str, seq: int) -> None:
    of_user = by_user[user]
    del of_user[seq]
    if not of_user:
        del by_user[user]
