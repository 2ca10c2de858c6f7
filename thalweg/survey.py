"""The facts of a person's events, gathered in one pass and in bounded memory. Pure: no judgement, no clock, no I/O."""

from collections import Counter
from typing import Final

from producers.source import Broken, Pause, Sourced
from stream.events import Impression, Install, Item, Tick, User
from stream.joiner.label_rules import LabelRules
from thalweg.attribution import MOST, Attribution, Came, Recent
from thalweg.columns import Origin, Sample

FIRST: Final = 3  # places that are named for each kind of trouble
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
    """Take every event of a source in its order, then `finish`.

    `skew_ms`: how much older than its page an install may be that names it. `most`: how many users, items, ids and
    shown items are remembered at least, each; of older ones nothing is known.
    """

    def __init__(self, most: int = MOST, skew_ms: int = LabelRules.skew_ms) -> None:
        self.lines = 0
        self.ticks = 0
        self.retractions = 0
        self.users_shown = 0  # different users on pages
        self.items_shown = 0  # different items on pages
        self.first_ms = self.last_ms = 0  # event time
        self.user, self.item, self.context = Origin(), Origin(), Origin()
        self.shown = Attribution(most, skew_ms)
        self.labels = 0  # shown items that were installed
        self.delays = Sample()  # ms from page to install
        self.behind = Sample()  # ms by which events are older than one before them
        self.histories = Sample()  # installs of its user before a page
        self.with_history = 0  # pages whose user had installed something
        self.page_sizes: Counter[int] = Counter()
        self.labels_at: Counter[int] = Counter()
        self.broken, self.repeated_pages, self.repeated_installs = Trouble(), Trouble(), Trouble()
        self.undescribed, self.nothing_retracted, self.odd_propensities = Trouble(), Trouble(), Trouble()
        self._users: Recent[int] = Recent(most)  # SHOWN | DESCRIBED
        self._items: Recent[int] = Recent(most)
        self._install_ids: Recent[bool] = Recent(most)
        self._has: Recent[int] = Recent(most)

    def take(self, line: int, event: Sourced) -> list[Came]:
        """Take what stands in this line; returns the installs that are now known to have a page."""
        self.lines += not isinstance(event, Pause)
        if isinstance(event, Impression):
            self._time(event.time_ms)
            return self._page(line, event)
        if isinstance(event, Install):
            self._time(event.time_ms)
            return self._install(line, event)
        if isinstance(event, Tick):
            self.ticks += 1
            self._time(event.time_ms)
        elif isinstance(event, Item):
            self.item.add(event.attributes, line)
            self._mark(self._items, event.item, DESCRIBED)
        elif isinstance(event, User):
            self.user.add(event.attributes, line)
            self._mark(self._users, event.user, DESCRIBED)
        elif isinstance(event, Broken):
            self.broken.note(line, event.reason)
        return []

    def finish(self) -> None:
        """Nothing comes any more."""
        self.shown.finish()

    @property
    def pages(self) -> int:
        """Different pages."""
        return self.shown.pages - self.shown.repeated_pages

    @property
    def base_rate(self) -> float:
        """Installed share of the items shown; 0 without any."""
        return self.labels / self.shown.shown if self.shown.shown else 0.0

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

    def _page(self, line: int, page: Impression) -> list[Came]:
        repeated = self.shown.repeated_pages
        came = self.shown.page(page)
        if self.shown.repeated_pages > repeated:
            self.repeated_pages.note(line, page.request_id)
            return []
        self.context.add(page.context, line)
        self.users_shown += not self._mark(self._users, page.user, SHOWN) & SHOWN
        self.page_sizes[len(page.items)] += 1
        marks = self._items.young
        for item in [item for item in page.items if marks.get(item) != SHOWN | DESCRIBED]:
            known = self._mark(self._items, item, SHOWN)
            self.items_shown += not known & SHOWN
            if not known & DESCRIBED:
                self.undescribed.note(line, item)
        has = self._has.get(page.user) or 0
        self.with_history += has > 0
        self.histories.add(has)
        if page.propensities and not all(0 < share <= 1 for share in page.propensities):
            self.odd_propensities.note(line, page.request_id)
        return self._count(came)

    def _install(self, line: int, install: Install) -> list[Came]:
        name = hash((install.user, install.install_id))
        known = self._install_ids.get(name) is not None
        if install.retracted:
            self.retractions += 1
            if not known:
                self.nothing_retracted.note(line, install.install_id)
            return []
        if known:
            self.repeated_installs.note(line, install.install_id)
            return []
        self._install_ids.put(name, True)
        self._has.put(install.user, (self._has.get(install.user) or 0) + 1)
        came = self.shown.install(install, line)
        return self._count([came]) if came else []

    def _count(self, came: list[Came]) -> list[Came]:
        for each in came:
            self.delays.add(each.delay_ms)
            self.labels += each.first
            self.labels_at[each.position] += each.first
        return came

    @staticmethod
    def _mark(seen: Recent[int], name: str, flag: int) -> int:
        """Set the flag; returns what was set before."""
        known = seen.get(name) or 0
        if not known & flag or name not in seen.young:
            seen.put(name, known | flag)
        return known
