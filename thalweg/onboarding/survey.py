"""Counts what a user's events contain, in one pass and bounded memory. Pure: no judgement, no clock, no I/O."""

from collections import Counter
from typing import Final

from producers.source import InvalidEvent, Pause, SourceElement
from stream.events.types import Impression, Install, Item, Tick, User
from stream.joiner.label_rules import LabelRules
from thalweg.onboarding.attribution import Added, Attribution, InstallOutcome
from thalweg.onboarding.columns import Origin, Sample
from thalweg.onboarding.recent_map import RecentMap

FIRST: Final = 3  # lines that are reported for each kind of problem
BATCH: Final = 256  # events that are joined together
ENTITIES_MAX: Final = 500_000  # users and items of a generation; one to two generations are retained
JOINED: Final = (Impression, Install)
SHOWN, DESCRIBED = 1, 2


class Occurrences:
    """How often a problem occurs, and its first lines: (line, detail)."""

    __slots__ = ("count", "first")

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[int, str]] = []

    def add(self, line: int, detail: str = "") -> None:
        """It occurs in this line."""
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append((line, detail))


class Survey:
    """Add every event of a source in order, then `finish`; only then are the counts complete.

    `skew_ms`: how much older than its page an install that names it may be.
    """

    def __init__(self, skew_ms: int = LabelRules.skew_ms) -> None:
        self.lines = 0
        self.users_shown = 0  # distinct users on pages
        self.items_shown = 0  # distinct items on pages
        self.first_ms = self.last_ms = 0  # event time
        self.user, self.item, self.context = Origin(), Origin(), Origin()
        self.origins = {"user": self.user, "item": self.item, "context": self.context}
        self.pages = 0  # without repetitions
        self.shown = 0  # items on them
        self.installs = 0  # without repetitions
        self.labels = 0  # shown items that were installed
        self.delays = Sample()  # ms from page to install
        self.behind = Sample()  # ms by which events are older than an earlier one
        self.histories = Sample()  # installs by a page's user before the page
        self.with_history = 0  # pages whose user has installed something before
        self.page_sizes: Counter[int] = Counter()
        self.items_max = 0  # of one event, not of an extended page
        self.labels_at: Counter[int] = Counter()
        self.unmatched: dict[str, Occurrences] = {}  # installs without a page, by reason
        self.broken, self.repeated_pages, self.repeated_installs = Occurrences(), Occurrences(), Occurrences()
        self.undescribed, self.nothing_retracted, self.odd_propensities = Occurrences(), Occurrences(), Occurrences()
        self._events: list[tuple[int, SourceElement]] = []  # buffered until those in `_to_join` are joined
        self._to_join: list[tuple[int, Impression | Install]] = []
        self._attribution = Attribution(skew_ms)
        self._users: RecentMap[int] = RecentMap(ENTITIES_MAX)  # SHOWN | DESCRIBED
        self._items: RecentMap[int] = RecentMap(ENTITIES_MAX)
        self._installs_of: RecentMap[int] = RecentMap(ENTITIES_MAX)

    def add(self, line: int, event: SourceElement) -> list[InstallOutcome]:
        """Add the event in this line; returns outcomes of installs that are final now."""
        if isinstance(event, JOINED):
            self._add_time(event.time_ms)
            self._to_join.append((line, event))
        elif isinstance(event, Tick):
            self._add_time(event.time_ms)
        elif isinstance(event, InvalidEvent):
            self.broken.add(line, event.reason)
        elif isinstance(event, Pause):
            return []
        self.lines += 1
        self._events.append((line, event))
        return self._join() if len(self._events) >= BATCH else []

    def finish(self) -> list[InstallOutcome]:
        """The outcomes of all other installs."""
        return [*self._join(), *self._count(self._attribution.finish())]

    @property
    def base_rate(self) -> float:
        """The share of shown items that were installed; 0 without any."""
        return self.labels / self.shown if self.shown else 0.0

    @property
    def without_page(self) -> int:
        """How many installs have no page."""
        return sum(one.count for one in self.unmatched.values())

    def rate_at(self, position: int) -> tuple[int, float]:
        """How many pages have an item at this position (from 0), and the share that was installed."""
        pages = sum(count for size, count in self.page_sizes.items() if size > position)
        return pages, self.labels_at[position] / pages if pages else 0.0

    def _add_time(self, time_ms: int) -> None:
        self.first_ms = min(self.first_ms or time_ms, time_ms)
        if time_ms < self.last_ms:
            self.behind.add(self.last_ms - time_ms)
        else:
            self.last_ms = time_ms

    def _join(self) -> list[InstallOutcome]:
        added = iter(self._attribution.join(self._to_join))
        for line, event in self._events:
            if isinstance(event, Impression):
                self._add_page(line, event, next(added))
            elif isinstance(event, Install):
                self._add_install(line, event, next(added))
            elif isinstance(event, Item):
                self.item.add(event.attributes, line)
                self._mark(self._items, event.item, DESCRIBED)
            elif isinstance(event, User):
                self.user.add(event.attributes, line)
                self._mark(self._users, event.user, DESCRIBED)
        self._events, self._to_join = [], []
        return self._count(self._attribution.end_generation())

    def _add_page(self, line: int, page: Impression, added: Added) -> None:
        if not added.new:
            self.repeated_pages.add(line, page.request_id)
            return
        self.shown += added.new
        self.context.add(page.context, line)
        self.items_max = max(self.items_max, len(page.items))
        self.page_sizes[added.base + added.new] += 1
        if added.base:
            self.page_sizes[added.base] -= 1
        else:
            self.pages += 1
            self.users_shown += not self._mark(self._users, page.user, SHOWN) & SHOWN
            installs = self._installs_of.get(page.user) or 0
            self.with_history += installs > 0
            self.histories.add(installs)
        flags = self._items.young
        for item in [item for item in page.items if flags.get(item) != SHOWN | DESCRIBED]:
            known = self._mark(self._items, item, SHOWN)
            self.items_shown += not known & SHOWN
            if not known & DESCRIBED:
                self.undescribed.add(line, item)
        if page.propensities and not all(0 < share <= 1 for share in page.propensities):
            self.odd_propensities.add(line, page.request_id)

    def _add_install(self, line: int, install: Install, added: Added) -> None:
        if not added.new:
            repeated = self.nothing_retracted if install.retracted else self.repeated_installs
            repeated.add(line, install.install_id)
        elif not install.retracted:
            self.installs += 1
            self._installs_of.put(install.user, (self._installs_of.get(install.user) or 0) + 1)

    def _count(self, outcomes: list[InstallOutcome]) -> list[InstallOutcome]:
        for one in outcomes:
            if one.unmatched:
                self.unmatched.setdefault(one.unmatched, Occurrences()).add(one.line)
            else:
                self.delays.add(one.delay_ms)
                self.labels += 1
                self.labels_at[one.position] += 1
        return outcomes

    @staticmethod
    def _mark(seen: RecentMap[int], name: str, flag: int) -> int:
        """Set the flag; returns the flags that were set before."""
        known = seen.get(name) or 0
        if not known & flag or name not in seen.young:
            seen.put(name, known | flag)
        return known
