"""The facts of a person's events, gathered in one pass and in bounded memory. Pure: no judgement, no clock, no I/O."""

from collections import Counter
from typing import Final

from producers.source import Broken, Pause, Sourced
from stream.events.types import Impression, Install, Item, Tick, User
from stream.joiner.label_rules import LabelRules
from thalweg.onboarding.attribution import Added, Attribution, Settled
from thalweg.onboarding.columns import Origin, Sample
from thalweg.onboarding.recent import Recent

FIRST: Final = 3  # places that are named for each kind of trouble
AT_ONCE: Final = 256  # events that are joined together
MOST: Final = 500_000  # users and items of a generation; between one and two generations are remembered
JOINED: Final = (Impression, Install)
SHOWN, DESCRIBED = 1, 2


class Trouble:
    """How often something was met, and where first: (line, what)."""

    __slots__ = ("count", "first")

    def __init__(self) -> None:
        self.count = 0
        self.first: list[tuple[int, str]] = []

    def note(self, line: int, what: str = "") -> None:
        """It was met in this line."""
        self.count += 1
        if len(self.first) < FIRST:
            self.first.append((line, what))


class Survey:
    """Take every event of a source in its order, then `finish`; only then are the counts complete.

    `skew_ms`: how much older than its page an install may be that names it. What is remembered is bounded.
    """

    def __init__(self, skew_ms: int = LabelRules.skew_ms) -> None:
        self.lines = 0
        self.ticks = 0
        self.retractions = 0
        self.users_shown = 0  # different users on pages
        self.items_shown = 0  # different items on pages
        self.first_ms = self.last_ms = 0  # event time
        self.user, self.item, self.context = Origin(), Origin(), Origin()
        self.pages = 0  # different pages
        self.shown = 0  # items on them
        self.installs = 0  # different installs
        self.labels = 0  # shown items that were installed
        self.delays = Sample()  # ms from page to install
        self.behind = Sample()  # ms by which events are older than one before them
        self.histories = Sample()  # installs of its user before a page
        self.with_history = 0  # pages whose user had installed something
        self.page_sizes: Counter[int] = Counter()
        self.items_max = 0  # of one event: what extends a page is another one
        self.labels_at: Counter[int] = Counter()
        self.unmatched: dict[str, Trouble] = {}  # installs without a page, by reason
        self.broken, self.repeated_pages, self.repeated_installs = Trouble(), Trouble(), Trouble()
        self.undescribed, self.nothing_retracted, self.odd_propensities = Trouble(), Trouble(), Trouble()
        self._events: list[tuple[int, Sourced]] = []  # that wait for what the join says of those in `_to_join`
        self._to_join: list[tuple[int, Impression | Install]] = []
        self._attribution = Attribution(skew_ms)
        self._users: Recent[int] = Recent(MOST)  # SHOWN | DESCRIBED
        self._items: Recent[int] = Recent(MOST)
        self._has: Recent[int] = Recent(MOST)

    def take(self, line: int, event: Sourced) -> list[Settled]:
        """Take what stands in this line; returns the installs of which all is known now."""
        if isinstance(event, JOINED):
            self._time(event.time_ms)
            self._to_join.append((line, event))
        elif isinstance(event, Tick):
            self._time(event.time_ms)
            self.ticks += 1
        elif isinstance(event, Broken):
            self.broken.note(line, event.reason)
        elif isinstance(event, Pause):
            return []
        self.lines += 1
        self._events.append((line, event))
        return self._join() if len(self._events) >= AT_ONCE else []

    def finish(self) -> list[Settled]:
        """Nothing comes any more: all other installs."""
        return [*self._join(), *self._settle(self._attribution.finish())]

    @property
    def base_rate(self) -> float:
        """Installed share of the items shown; 0 without any."""
        return self.labels / self.shown if self.shown else 0.0

    @property
    def without_page(self) -> int:
        """Installs that no page has."""
        return sum(trouble.count for trouble in self.unmatched.values())

    def rate_at(self, position: int) -> tuple[int, float]:
        """How many pages had an item at this position (from 0), and the installed share of those."""
        pages = sum(count for size, count in self.page_sizes.items() if size > position)
        return pages, self.labels_at[position] / pages if pages else 0.0

    def _time(self, time_ms: int) -> None:
        self.first_ms = min(self.first_ms or time_ms, time_ms)
        if time_ms < self.last_ms:
            self.behind.add(self.last_ms - time_ms)
        else:
            self.last_ms = time_ms

    def _join(self) -> list[Settled]:
        added = iter(self._attribution.join(self._to_join))
        for line, event in self._events:
            if isinstance(event, Impression):
                self._page(line, event, next(added))
            elif isinstance(event, Install):
                self._install(line, event, next(added))
            elif isinstance(event, Item):
                self.item.add(event.attributes, line)
                self._mark(self._items, event.item, DESCRIBED)
            elif isinstance(event, User):
                self.user.add(event.attributes, line)
                self._mark(self._users, event.user, DESCRIBED)
        self._events, self._to_join = [], []
        return self._settle(self._attribution.settle())

    def _page(self, line: int, page: Impression, added: Added) -> None:
        if not added.new:
            self.repeated_pages.note(line, page.request_id)
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
            has = self._has.get(page.user) or 0
            self.with_history += has > 0
            self.histories.add(has)
        marks = self._items.young
        for item in [item for item in page.items if marks.get(item) != SHOWN | DESCRIBED]:
            known = self._mark(self._items, item, SHOWN)
            self.items_shown += not known & SHOWN
            if not known & DESCRIBED:
                self.undescribed.note(line, item)
        if page.propensities and not all(0 < share <= 1 for share in page.propensities):
            self.odd_propensities.note(line, page.request_id)

    def _install(self, line: int, install: Install, added: Added) -> None:
        if install.retracted:
            self.retractions += 1
            if not added.new:
                self.nothing_retracted.note(line, install.install_id)
        elif not added.new:
            self.repeated_installs.note(line, install.install_id)
        else:
            self.installs += 1
            self._has.put(install.user, (self._has.get(install.user) or 0) + 1)

    def _settle(self, installs: list[Settled]) -> list[Settled]:
        for one in installs:
            if one.why:
                self.unmatched.setdefault(one.why, Trouble()).note(one.line)
            else:
                self.delays.add(one.delay_ms)
                self.labels += 1
                self.labels_at[one.position] += 1
        return installs

    @staticmethod
    def _mark(seen: Recent[int], name: str, flag: int) -> int:
        """Set the flag; returns what was set before."""
        known = seen.get(name) or 0
        if not known & flag or name not in seen.young:
            seen.put(name, known | flag)
        return known
