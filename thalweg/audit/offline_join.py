"""The labels that a log should have led to: all events at once, by definition. The one oracle of audit and tests.

It shares no code with the joiner (`stream/joiner/join.py`); only the rules are the same, written down a second time:

* The *watermark* at an event is the greatest event time up to and with it in its partition, less `lateness`; an
  event counts for its own arrival at most.
* An event is *late*, and as if it had never been, when its time + life ≤ watermark; life = window + known.
* Events that are further than `ahead` after their own arrival go to the dead letters.
* A page's labels are decided by what stands in the log before the watermark reaches its time + life, its *end*.
* A further page of the same user under a request id *extends* the page that is known by it until that one's end: items
  that aren't on it yet continue its positions, up to ITEMS_MAX; the whole page keeps the first one's event time. What
  adds no item, or is another user's, is a repetition.
* An install belongs to the page that its request id names, else to the newest page (event time, then order of the
  first pages) of that user with that item; in both cases with page time ≤ install time < page time + window. One that
  names its page may be up to `skew` older than it.
* What stands behind the install in the log, a page or what extends it, gets it only while the watermark there is before
  install time + `early` (life, where the spec doesn't say).
* Repeated installs count once, while their id is known (`install_dedup.py`); an install is void when a retraction of
  its id isn't older than it.
* An install is *organic* when no page ever had a claim on it, and it isn't void when the watermark reaches its time +
  life.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

from stream.events.types import ITEMS_MAX
from thalweg.audit.install_dedup import counted
from thalweg.audit.log_events import NEVER, InstallEvent, LogEvent, PageEvent
from thalweg.audit.rules import AuditRules


@dataclass(slots=True)
class Page:
    """A page that counts. `added`: the items that each of its parts, the first page and what extends it, has brought.

    An example's id has an item's place in `items`: the items that the page had before, and then those that are new.
    """

    parts: list[PageEvent]
    added: list[list[str]]
    positives: frozenset[str] = frozenset()

    @property
    def first(self) -> PageEvent:
        """The page that it began with: its user and event time are the whole page's."""
        return self.parts[0]

    @property
    def items(self) -> list[str]:
        """All that it shows, in the order of positions."""
        return self.added[0] if len(self.added) == 1 else [item for some in self.added for item in some]

    def extend(self, further: PageEvent) -> bool:
        """Add what a further page shows beyond this one; False: nothing."""
        there = set(self.items)
        new = [item for item in further.items if item not in there][: ITEMS_MAX - len(there)]
        if new:
            self.parts.append(further)
            self.added.append(new)
        return bool(new)


@dataclass(slots=True)
class Joined:
    """What one partition's events lead to, and what of them counts for nothing."""

    pages: list[Page] = field(default_factory=list)
    organic: list[InstallEvent] = field(default_factory=list)
    late: int = 0
    repeated: int = 0
    extended: int = 0


def offline_join(events: Iterable[LogEvent], rules: AuditRules, not_pages: Container[int] = ()) -> Joined:
    """Join events of one partition, in order: all of them, or all of some users.

    `not_pages`: places (`seq`) of pages under a request id that another user's page had, where that one isn't among the
    events.
    """
    joined = Joined()
    installs: defaultdict[tuple[str, str], list[InstallEvent]] = defaultdict(list)
    known: dict[str, Page] = {}
    for event in events:
        if event.time_ms + rules.life_ms <= event.watermark_ms:
            joined.late += 1
        elif isinstance(event, InstallEvent):
            installs[event.user, event.install_id].append(event)
        elif event.seq in not_pages:
            joined.repeated += 1
        else:
            _take_page(event, known, joined, rules)
    counting = [one for of_id in installs.values() for one in counted(of_id, rules.life_ms)]
    shown = _Shown(joined.pages, counting)
    for install, void in counting:
        claims = sorted(shown.claims(install, rules), key=_rank, reverse=True)
        void_ms = NEVER if void is None else void.watermark_ms
        rival_ms = NEVER  # from which watermark on a better page was known
        for page, part in claims:
            end_ms = page.first.time_ms + rules.life_ms
            if min(rival_ms, void_ms) >= end_ms:
                page.positives |= {install.item}
            rival_ms = min(rival_ms, part.watermark_ms)
        if not claims and void_ms >= install.time_ms + rules.life_ms:
            joined.organic.append(install)
    return joined


def _take_page(event: PageEvent, known: dict[str, Page], joined: Joined, rules: AuditRules) -> None:
    page = known.get(event.request_id)
    if page is None or event.watermark_ms >= page.first.time_ms + rules.life_ms:
        page = known[event.request_id] = Page([event], [event.items])
        joined.pages.append(page)
    elif page.first.user == event.user and page.extend(event):
        joined.extended += 1
    else:
        joined.repeated += 1


Claim = tuple[Page, PageEvent]  # a page, and the part of it that shows the item


def _rank(claim: Claim) -> tuple[int, int]:
    """Of two pages the newer one has the better claim."""
    return claim[0].first.time_ms, claim[0].first.seq


class _Shown:
    """Where the items of installs were shown, by user and item, in order of the pages' event times."""

    def __init__(self, pages: Iterable[Page], installs: Iterable[tuple[InstallEvent, object]]) -> None:
        wanted: defaultdict[str, set[str]] = defaultdict(set)
        for install, _ in installs:
            wanted[install.user].add(install.item)
        self._claims: defaultdict[tuple[str, str], list[Claim]] = defaultdict(list)
        for page in pages:
            items = wanted.get(page.first.user)
            if items is None:
                continue
            for part, added in zip(page.parts, page.added, strict=True):
                for item in items.intersection(added):
                    self._claims[page.first.user, item].append((page, part))
        for claims in self._claims.values():
            claims.sort(key=_rank)

    def claims(self, install: InstallEvent, rules: AuditRules) -> Iterator[Claim]:
        """Every page that ever had a claim on an install."""
        shown = self._claims.get((install.user, install.item), [])
        begin = bisect_left(shown, (install.time_ms - rules.window_ms + 1, 0), key=_rank)
        for page, part in shown[begin:]:
            names = install.named == page.first.request_id
            if page.first.time_ms > install.time_ms + rules.skew_ms:
                return
            if (
                (names or not install.named)
                and page.first.time_ms <= install.time_ms + (rules.skew_ms if names else 0)
                and install.watermark_ms < page.first.time_ms + rules.life_ms
                and (part.seq < install.seq or part.watermark_ms < install.time_ms + rules.waits_ms)
            ):
                yield page, part
