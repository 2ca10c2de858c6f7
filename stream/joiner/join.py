"""The join: pages and installs of one partition become labelled examples. Pure: no clock, no I/O.

Whose install it is: the page that its request id names, else the newest page (greatest event time, then
order in the log) of that user with that item; in both cases only with `page time <= install time < page time
+ window`. The end is exclusive, so that an install in time order always finds its window open.

The *watermark* is the greatest event time seen, minus lateness. No event counts for more than its own arrival (the
record's ingest time, which stands in the log): one from the future closes nothing that is still open.

Three things happen to a page as the watermark passes:
at `time + window` it closes and the labels still untold are told; until `time + window + known` it can be
corrected (late positives, retractions, a late page's own labels); then it is forgotten. Installs and
retractions are remembered by the same formula, so whatever a page needs is remembered as long as the page.
An install waits for pages that come after it in the log until `time + early`.

**Memory.** What is remembered has a price in bytes; over `bytes_max` the oldest is finished early: a *floor* rises
in event time, pages up to it close and are forgotten, and whatever comes with a time up to it is late.

**Restarts.** A checkpoint is (offset, watermark before that record, event time up to which all is finished, floor).
A joiner that starts there reads a suffix of the log with nothing remembered, and still tells no other label:
* A page later than `finished` was remembered when the checkpoint was taken, and so were its installs (they
  aren't older): all of them stand at or behind the offset.
* A page not later than `finished` has had its say. Read again, it takes installs but stays silent. An install
  whose page isn't read again can only fall to an older page, which is finished too.
* What is late and what is taken in is decided by watermark and floor, which are the same again.

**Organic installs.** One that no page has claimed when it is forgotten, and that wasn't taken back, is organic. It must
not become so because its page isn't read again. So with `organic` an install holds the commit at the page that has it;
one not later than `finished` was told; and what happened within a window after `unsure`, an event time up to which
pages may have claimed what a restart can't know, isn't told at all. That is the floor (a page forgotten early is late
when it is read again), and where the joiner that committed had no `organic`, whatever it had finished.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from stream.events import Examples, Install, Organic, SourceEvent
from stream.joiner.join_state import Again, Counts, Installed, PendingInstall, RecordRef, UserIndex
from stream.joiner.label_policy import Labeller
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import LabelBatch, Row, examples_of
from stream.joiner.raw_impression import SILENT, JoinEvent, RawImpression, held
from stream.joiner.timers import TimerQueue

PAGE_BYTES: Final = 400  # what a page costs beyond its bytes in the log and its ids, at most
INSTALL_BYTES: Final = 800  # what an install costs beyond its texts, dictionaries included
SLICE: Final = 512  # pages closed and things forgotten at once: some ten milliseconds until they are written
SHARDS: Final = 64  # dictionaries of pages: one of a million would take 60 ms to grow


@dataclass(frozen=True)
class Checkpoint:
    """Where a new joiner may start: next record, watermark before it, event time up to which all is told.

    `floor_ms`: event time up to which all was forgotten early. `unsure_ms`: event time up to which a page may have
    claimed an install that a new joiner reads without it (None: whatever is finished).
    """

    offset: int
    watermark_ms: int
    finished_ms: int
    floor_ms: int = 0
    unsure_ms: int | None = None


class Joiner:
    """The join state of one partition. Give it every record in offset order.

    `organic`: what the last record has shown to be organic, if the rules want it told. `installed`: what its installs
    and retractions say of histories. `late`: its events that came too late to be taken, and by how many ms.
    """

    def __init__(
        self,
        rules: LabelRules,
        watermark_ms: int = 0,
        finished_ms: int = 0,
        floor_ms: int = 0,
        unsure_ms: int | None = None,
    ) -> None:
        assert rules.window_ms > 0, rules
        assert min(rules.lateness_ms, rules.known_ms, rules.waits_ms) >= 0, rules
        self.rules = rules
        self._window_ms, self._life_ms, self._waits_ms = rules.window_ms, rules.life_ms, rules.waits_ms
        self._lateness_ms = rules.lateness_ms
        self.watermark_ms = watermark_ms
        self.counts = Counts()
        self.organic: list[Organic] = []
        self.installed: list[Installed] = []
        self.late: list[tuple[RawImpression | Install, int]] = []
        self._labels = Labeller(rules.policy, holding=rules.organic)
        self._tells_first = rules.policy == "fake_negative"
        self.open_pages = 0
        self.held_bytes = 0
        self._floor_ms = floor_ms
        self._finished_ms = finished_ms
        self._unsure_ms = finished_ms if unsure_ms is None else unsure_ms
        self.bytes_max = 2**62 if rules.bytes_max is None else rules.bytes_max
        self._marks: deque[RecordRef] = deque()
        self._closing: TimerQueue[RawImpression] = TimerQueue()  # open pages
        self._fresh: list[RawImpression] = []  # open pages that aren't in there yet
        self._known: TimerQueue[RawImpression | PendingInstall | Again] = TimerQueue()  # closed pages; installs
        self._pages: tuple[dict[str, RawImpression], ...] = tuple({} for _ in range(SHARDS))
        self._installs: dict[str, PendingInstall] = {}
        self._pages_of: UserIndex[RawImpression] = UserIndex()
        self._installs_of: UserIndex[PendingInstall] = UserIndex()

    @classmethod
    def start(cls, rules: LabelRules, checkpoint: Checkpoint) -> "Joiner":
        """A joiner that reads on at `checkpoint.offset`."""
        return cls(rules, checkpoint.watermark_ms, checkpoint.finished_ms, checkpoint.floor_ms, checkpoint.unsure_ms)

    def feed(self, events: Sequence[SourceEvent], offset: int, ingest_ms: int) -> list[Examples]:
        """Take one record's events; returns the examples that came of them, in a fixed order."""
        return examples_of(self.take(held(events), offset, ingest_ms))

    def take(self, events: Sequence[JoinEvent], offset: int, ingest_ms: int) -> list[LabelBatch]:
        """Take one record's events; returns what is told because of them, in a fixed order."""
        said: list[LabelBatch] = []
        organic: list[Organic] = []
        for part in self.parts(events, offset, ingest_ms):
            said += part
            organic += self.organic
        self.organic = organic
        return said

    def parts(self, events: Sequence[JoinEvent], offset: int, ingest_ms: int) -> Iterator[list[LabelBatch]]:
        """The same in parts, one at least; `organic` is each part's own. The record is taken when there is no further.

        One event can close all pages that there are. Between parts whoever writes them can do so.
        """
        marks = self._marks
        assert not marks or offset > marks[-1].offset, (offset, marks[-1].offset)
        said: list[LabelBatch] = []
        if self.organic:
            self.organic = []
        if self.installed:
            self.installed = []
        if self.late:
            self.late = []
        mark = RecordRef(offset, self.watermark_ms)
        marks.append(mark)
        latest_ms = max(ingest_ms - self._lateness_ms, self.watermark_ms)
        for event in events:
            watermark_ms = event.time_ms - self._lateness_ms
            if watermark_ms > self.watermark_ms:
                self.watermark_ms = watermark_ms if watermark_ms < latest_ms else latest_ms
            if type(event) is RawImpression:
                if not self._take_page(event, mark, ingest_ms, said):
                    while self._catch_up(ingest_ms, said):
                        yield said
                        said, self.organic = [], []
                    self._take_page(event, mark, ingest_ms, said, caught_up=True)
            elif type(event) is Install:
                while self._catch_up(ingest_ms, said):
                    yield said
                    said, self.organic = [], []
                self._take_install(event, mark, ingest_ms, said)
            if self.held_bytes > self.bytes_max:
                while self._shed(ingest_ms, said):
                    yield said
                    said, self.organic = [], []
        while self._catch_up(ingest_ms, said):
            yield said
            said, self.organic = [], []
        self._count(events)
        if not mark.refcount:
            marks.pop()
        while marks and not marks[0].refcount:
            marks.popleft()
        yield said

    def _count(self, events: Sequence[JoinEvent]) -> None:
        kinds, counts = list(map(type, events)), self.counts
        counts.pages += (pages := kinds.count(RawImpression))
        counts.installs += (installs := kinds.count(Install))
        counts.ticks += len(kinds) - pages - installs

    def hold_offset(self) -> int | None:
        """The oldest record of which something is still remembered; None: nothing is. Commit up to it, exclusive."""
        return self._marks[0].offset if self._marks else None

    def checkpoint(self, next_offset: int) -> Checkpoint:
        """Where a restart may begin, `next_offset` being the record after the last one fed.

        True only for what was said so far: it may be stored once the log has confirmed all of that.
        """
        finished_ms = max(self._finished_ms, self.watermark_ms - self._life_ms, self._floor_ms)
        unsure_ms = self._unsure_ms if self.rules.organic else None
        if self._marks:
            first = self._marks[0]
            return Checkpoint(first.offset, first.watermark_ms, finished_ms, self._floor_ms, unsure_ms)
        return Checkpoint(next_offset, self.watermark_ms, finished_ms, self._floor_ms, unsure_ms)

    @property
    def awaits_time(self) -> bool:
        """Whether there would be something to tell if only event time went on."""
        return self.open_pages > 0 or (self.rules.organic and bool(self._installs))

    def tick_ms(self, silence_ms: int) -> int:
        """The event time that a silent partition has reached, if event time goes on at the wall's pace."""
        return self.watermark_ms + self._lateness_ms + silence_ms

    def _catch_up(self, ingest_ms: int, said: list[LabelBatch]) -> bool:
        """Close and forget what the watermark has passed, a slice of it; whether there is more.

        It can wait while pages come that it has no bearing on.
        """
        watermark_ms = self.watermark_ms
        if self._fresh:
            self._closing.add_all(self._fresh)
            self._fresh.clear()
        return self._finish(watermark_ms - self._window_ms, watermark_ms - self._life_ms, ingest_ms, said)

    def _finish(self, closed_ms: int, forgotten_ms: int, ingest_ms: int, said: list[LabelBatch]) -> bool:
        """Close pages up to one event time, then forget everything up to another, in order of event time.

        No more than a slice of either at once; whether there is more.
        """
        if self._closing.next_ms <= closed_ms:
            closing = self._closing.take(closed_ms, SLICE)
            self.open_pages -= len(closing)
            self._labels.close(closing, ingest_ms, said)
            self._known.add_all(closing)
            if self._closing.next_ms <= closed_ms:
                return True
        if self._known.next_ms <= forgotten_ms:
            self._forget(self._known.take(forgotten_ms, SLICE))
            return self._known.next_ms <= forgotten_ms
        return False

    def _shed(self, ingest_ms: int, said: list[LabelBatch]) -> bool:
        """Raise the floor until memory suffices: what is oldest closes and is forgotten before its time.

        Returns True after each slice of it while there is more to do.
        """
        if self._catch_up(ingest_ms, said):
            return True
        while True:
            # Whatever isn't above the floor goes, also what a slice has left of an event time.
            first_ms = min(self._closing.next_ms, self._known.next_ms)
            if first_ms > self._floor_ms:
                if self.held_bytes <= self.bytes_max:
                    return False
                self._floor_ms = first_ms
                self._unsure_ms = max(self._unsure_ms, first_ms)
            before = sum(map(len, self._pages))
            more = self._finish(self._floor_ms, self._floor_ms, ingest_ms, said)
            self.counts.shed += before - sum(map(len, self._pages))
            if more:
                return True

    def _take_page(
        self, page: RawImpression, mark: RecordRef, ingest_ms: int, said: list[LabelBatch], *, caught_up: bool = False
    ) -> bool:
        """Take a page; False: not yet, the watermark has to be caught up with first."""
        time_ms, watermark_ms = page.time_ms, self.watermark_ms
        if time_ms + self._life_ms <= watermark_ms or time_ms <= self._floor_ms:
            self.counts.late += 1
            self.late.append((page, self._late_ms(time_ms)))
            return True
        waiting = page.user in self._installs_of.users
        closed = time_ms + self._window_ms <= watermark_ms
        pages = self._pages[hash(page.request_id) % SHARDS]
        if waiting or closed or self._tells_first or page.request_id in pages:
            if not caught_up:
                return False
            if page.request_id in pages:
                self.counts.duplicate += 1
                first = pages[page.request_id]
                if time_ms > first.time_ms:
                    # Read alone it would be a page, silent at last, but one that claims what may yet be organic.
                    over_ms = time_ms + self._window_ms if self.rules.organic else time_ms
                    self._hold_again(over_ms, first.mark, self._bytes_of_page(page))
                return True
        page.mark = mark
        mark.refcount += 1
        if time_ms <= self._finished_ms:
            page.state = SILENT
        pages[page.request_id] = page
        page.user = self._pages_of.add(page.user, page).user  # one text for all pages of a user
        self.held_bytes += len(page.raw) + len(page.request_id) + len(page.user) + PAGE_BYTES
        if waiting or self._tells_first:
            self._tell_first(page, ingest_ms, said)
        if closed:
            self._labels.close((page,), ingest_ms, said)
            self._known.add(page)
        else:
            self.open_pages += 1
            self._fresh.append(page)
        return True

    def _late_ms(self, time_ms: int) -> int:
        """By how much an event of this time came too late."""
        return max(self.watermark_ms - self._life_ms, self._floor_ms) - time_ms

    def _tell_first(self, page: RawImpression, ingest_ms: int, said: list[LabelBatch]) -> None:
        """What can be told of a page when it comes."""
        rows: list[Row] = []
        waiting = self._installs_of.of(page.user, page)
        self._labels.open(page, bool(waiting), ingest_ms, rows, said)
        for one in waiting:
            self._claim(page, one, ingest_ms, rows, said)
        self._labels.say(page, rows, ingest_ms, said)

    def _claim(
        self, page: RawImpression, one: PendingInstall, ingest_ms: int, rows: list[Row], said: list[LabelBatch]
    ) -> None:
        """Give an install that came first to this page, if the page is a better one than it has."""
        before = one.page
        if one.retracted or one.time_ms + self._waits_ms <= self.watermark_ms:
            return
        if before is not None and before.time_ms > page.time_ms:
            return
        position = self._position(page, one.install)
        if position < 0:
            return
        if before is None:
            self.counts.early += 1
        else:
            self._labels.detach(one, ingest_ms, said)
        self._labels.attach(page, position, one, ingest_ms, rows)

    def _take_install(self, install: Install, mark: RecordRef, ingest_ms: int, said: list[LabelBatch]) -> None:
        """Take an install; the watermark was caught up with."""
        one = PendingInstall(install, install.time_ms, mark, ingest_ms, install.retracted)
        if install.time_ms + self._life_ms <= self.watermark_ms or install.time_ms <= self._floor_ms:
            self.counts.late += 1
            self.late.append((install, self._late_ms(install.time_ms)))
            self._note(one, late=True)
            return
        key = self._key(install)
        known = self._installs.get(key)
        if known is not None and not (known.install.retracted and known.time_ms < install.time_ms):
            if install.retracted and not known.retracted and install.time_ms >= known.time_ms:
                self.counts.retracted += 1
                known.retracted = True
                self._labels.detach(known, ingest_ms, said)
                self._note(known)
            else:
                self.counts.duplicate += 1
                known.met |= not install.retracted
            if install.retracted:
                if install.time_ms > (known.after or known).time_ms:
                    known.after, one.met = one, True
                    self._remember(one)
            elif install.time_ms > max(known.time_ms, known.again_ms):  # a copy is one as long as the first is read
                known.again_ms = install.time_ms
                self._hold_again(install.time_ms, known.mark, self._bytes_of(install))
            return
        if known is not None:
            self._installs_of.drop(install.user, known)
        self._remember(one)
        self._installs[key] = one
        self._installs_of.add(install.user, one)
        self._note(one)
        if not install.retracted:
            self._find_page(one, ingest_ms, said)

    def _remember(self, one: PendingInstall) -> None:
        one.mark.refcount += 1
        self.held_bytes += self._bytes_of(one.install)
        self._known.add(one)

    def _note(self, one: PendingInstall, late: bool = False) -> None:
        """What the user has of the install's item now: the newest time that is remembered and wasn't taken back."""
        user, item = one.install.user, one.install.item
        times = [
            other.time_ms
            for other in self._installs_of.of(user, one)
            if other.install.item == item and not other.retracted
        ]
        if late and not one.retracted:
            times.append(one.time_ms)
        self.installed.append(Installed(user, item, max(times, default=None), not late))

    def _find_page(self, one: PendingInstall, ingest_ms: int, said: list[LabelBatch]) -> None:
        """Give a new install to the newest remembered page that it belongs to, if there is one."""
        install = one.install
        pages: Iterable[RawImpression]
        if install.request_id:
            named = self._pages[hash(install.request_id) % SHARDS].get(install.request_id)
            pages = (named,) if named is not None and named.user == install.user else ()
        else:
            pages = self._pages_of.newest(install.user, one, self._window_ms)
        for page in pages:
            position = self._position(page, install)
            if position >= 0:
                rows: list[Row] = []
                self._labels.attach(page, position, one, ingest_ms, rows)
                self._labels.say(page, rows, ingest_ms, said)
                return

    def _position(self, page: RawImpression, install: Install) -> int:
        """Where on this page the install belongs, -1 if it doesn't."""
        if not page.time_ms <= install.time_ms < page.time_ms + self._window_ms:
            return -1
        if install.request_id and install.request_id != page.request_id:
            return -1
        return page.position_of(install.item)

    def _hold_again(self, time_ms: int, mark: RecordRef, cost: int) -> None:
        """Keep the commit at this record until an event time is over as for any page."""
        mark.refcount += 1
        self.held_bytes += cost
        self._known.add(Again(time_ms, mark, cost))

    def _forget(self, known: list[RawImpression | PendingInstall | Again]) -> None:
        pages, pages_of, freed = self._pages, self._pages_of, 0
        for what in known:
            if type(what) is RawImpression:
                what.state |= SILENT
                what.mark.refcount -= 1
                freed += len(what.raw) + len(what.request_id) + len(what.user) + PAGE_BYTES
                del pages[hash(what.request_id) % SHARDS][what.request_id]
                pages_of.drop(what.user, what)
            elif type(what) is PendingInstall:
                self._forget_install(what)
            else:
                assert isinstance(what, Again)
                what.mark.refcount -= 1
                freed += what.bytes
        self.held_bytes -= freed

    def _forget_install(self, one: PendingInstall) -> None:
        install = one.install
        one.mark.refcount -= 1
        self.held_bytes -= self._bytes_of(install)
        if one.page is not None:
            self._labels.let_go(one)
        elif install.retracted:
            # Where the install came after it, that one has its place now.
            alone = self._installs.get(self._key(install)) is one and not one.met
            self.counts.stray += alone and one.time_ms > self._finished_ms
        elif self._is_organic(one):
            self.counts.organic += 1
            if self.rules.organic:
                told = (install.user, install.item, install.time_ms, install.install_id, install.request_id)
                self.organic.append(Organic(*told, one.ingest_ms))
        key = self._key(install)
        if self._installs.get(key) is one:
            self._installs_of.drop(install.user, one)
            if one.after is None:
                del self._installs[key]
            else:  # as if it had been read alone, which a restart may do
                self._installs[key] = one.after
                self._installs_of.add(install.user, one.after)

    @staticmethod
    def _bytes_of_page(page: RawImpression) -> int:
        return len(page.raw) + len(page.request_id) + len(page.user) + PAGE_BYTES

    @staticmethod
    def _bytes_of(install: Install) -> int:
        """What is counted for it: user and install id stand in its key again, the id at its page a third time."""
        ids = 2 * len(install.user) + 3 * len(install.install_id)
        return INSTALL_BYTES + ids + len(install.item) + len(install.request_id)

    @staticmethod
    def _key(install: Install) -> str:
        """Tells installs apart, whatever their ids are made of."""
        return f"{len(install.user)} {install.user}{install.install_id}"

    def _is_organic(self, one: PendingInstall) -> bool:
        """Whether an install without a page surely has none, and a joiner before a restart hasn't told it."""
        told = one.time_ms <= self._finished_ms
        return not one.retracted and not told and one.time_ms - self._window_ms >= self._unsure_ms
