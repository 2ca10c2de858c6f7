"""Which page an install came of, and how long after: as the joiner would say, remembered in bounded memory.

The joiner's rules (`stream/joiner/join.py`): the page that the install's request id names, else the newest page of that
user with that item; page time <= install time, where it names its page + skew. A further page of the same user under a
request id extends the page. An install may stand before its page. Whether its delay is below the window is for the
caller to say: an install that is too late for the newest page is so for all. The joiner itself isn't asked: no window
bounds what it would remember, and of a second install of an item it emits nothing.
"""

from collections import Counter, deque
from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeVar

from stream.events import ITEMS_MAX, Impression, Install
from stream.joiner.label_rules import LabelRules

MOST: Final = 500_000  # shown items of a generation; between one and two generations are remembered
PAGES_MAX: Final = 100  # of one user in one generation
WAITING_MAX: Final = 100_000  # installs that may still find a page further on

UNKNOWN_PAGE: Final = "name a request_id that no page has"
OTHER_PAGE: Final = "name a page that didn't show this item to this user"
NEVER_SHOWN: Final = "are of an item that wasn't shown to this user before"
TOO_EARLY: Final = "happen before the page that they name"

V = TypeVar("V")


class Recent(Generic[V]):
    """A map of bounded size: of more than two generations it forgets the oldest."""

    __slots__ = ("most", "old", "young")

    def __init__(self, most: int) -> None:
        self.most = most
        self.young: dict[Hashable, V] = {}
        self.old: dict[Hashable, V] = {}

    def get(self, key: Hashable) -> V | None:
        """What was put last, if it isn't forgotten."""
        known = self.young.get(key)
        return self.old.get(key) if known is None else known

    def put(self, key: Hashable, value: V) -> None:
        """Remember it; the generation ends when it is full."""
        self.young[key] = value
        if len(self.young) >= self.most:
            self.turn()

    def turn(self) -> None:
        """End the generation: the one before it is forgotten."""
        self.old, self.young = self.young, {}


class _Page:
    __slots__ = ("installed", "items", "name", "time_ms", "user")

    def __init__(self, page: Impression) -> None:
        self.name, self.time_ms, self.user, self.items = page.request_id, page.time_ms, page.user, page.items
        self.installed = 0  # a bit per position

    def extend(self, further: Impression) -> list[str]:
        """Show what is new on a further page, too; returns it."""
        there = set(self.items)
        new = [item for item in further.items if item not in there] if further.user == self.user else []
        new = new[: ITEMS_MAX - len(there)]
        self.items = [*self.items, *new]
        return new


class Came(NamedTuple):
    """An install that has a page: how long after it (within the skew: 0), at which position, and whether that position
    had none yet.
    """

    delay_ms: int
    position: int
    first: bool


class _Waiting(NamedTuple):
    install: Install
    line: int
    why: str


class Attribution:
    """Take every page and install in the order of the file.

    `unmatched` counts installs without a page by reason, once `finish` was called; `examples` has the first lines
    of each reason.
    """

    def __init__(self, most: int = MOST, skew_ms: int = LabelRules.skew_ms) -> None:
        self.skew_ms = skew_ms
        self.pages = 0
        self.repeated_pages = 0
        self.shown = 0  # items on pages
        self.installs = 0
        self.unmatched: Counter[str] = Counter()
        self.examples: dict[str, list[int]] = {}
        self._pages: Recent[_Page] = Recent(most)
        self._pages_of: Recent[deque[_Page]] = Recent(most)
        self._remembered = 0  # shown items of this generation
        self._waiting: dict[tuple[str, str], list[_Waiting]] = {}
        self._waiting_count = 0

    def page(self, page: Impression) -> list[Came]:
        """Take a page; returns the installs that stood before it and are its own. A repeated page is only counted."""
        self.pages += 1
        first = self._pages.get(page.request_id)
        if first is not None:
            new = first.extend(page)
            self.repeated_pages += not new
            self.shown += len(new)
            return self._claimed(page) if new and self._waiting else []
        known = _Page(page)
        self._pages.young[page.request_id] = known
        of_user = self._pages_of.young.get(page.user)
        if of_user is None:
            of_user = self._pages_of.young[page.user] = deque(maxlen=PAGES_MAX)
        of_user.append(known)
        self.shown += len(page.items)
        self._remembered += len(page.items)
        if self._remembered >= self._pages.most:
            self._remembered = 0
            self._pages.turn()
            self._pages_of.turn()
        return self._claimed(page) if self._waiting else []

    def install(self, install: Install, line: int) -> Came | None:
        """Take an install that stands in this line; None: it has no page so far."""
        self.installs += 1
        page, why = self._find(install)
        if page is not None:
            return self._came(install, page)
        if self._waiting_count >= WAITING_MAX:
            self.finish()
        self._waiting.setdefault((install.user, install.item), []).append(_Waiting(install, line, why))
        self._waiting_count += 1
        return None

    def finish(self) -> None:
        """No page comes any more: installs that still wait have none."""
        for each in (one for some in self._waiting.values() for one in some):
            self.unmatched[each.why] += 1
            lines = self.examples.setdefault(each.why, [])
            if len(lines) < 3:
                lines.append(each.line)
        self._waiting.clear()
        self._waiting_count = 0

    def _find(self, install: Install) -> tuple[_Page | None, str]:
        """Its page, else why there is none."""
        if install.request_id:
            page = self._pages.get(install.request_id)
            if page is None:
                return None, UNKNOWN_PAGE
            if page.user != install.user or install.item not in page.items:
                return None, OTHER_PAGE
            return (page, "") if page.time_ms <= install.time_ms + self.skew_ms else (None, TOO_EARLY)
        best: _Page | None = None
        for generation in (self._pages_of.young, self._pages_of.old):
            for page in generation.get(install.user, ()):
                newer = best is None or page.time_ms >= best.time_ms
                if newer and page.time_ms <= install.time_ms and install.item in page.items:
                    best = page
            if best is not None:
                return best, ""
        return None, NEVER_SHOWN

    def _came(self, install: Install, page: _Page) -> Came:
        position = page.items.index(install.item)
        first = not page.installed >> position & 1
        page.installed |= 1 << position
        return Came(max(0, install.time_ms - page.time_ms), position, first)

    def _claimed(self, page: Impression) -> list[Came]:
        found: list[Came] = []
        for item in page.items:
            waiting = self._waiting.pop((page.user, item), None)
            if waiting is None:
                continue
            still = []
            for each in waiting:
                known, why = self._find(each.install)
                if known is None:
                    still.append(each._replace(why=why))
                else:
                    self._waiting_count -= 1
                    found.append(self._came(each.install, known))
            if still:
                self._waiting[page.user, item] = still
        return found
