"""The labels that a log should lead to, by definition, from all events at once. The oracle of the audit and the tests.

It shares no code with the joiner (`stream/joiner/join.py`), only the rules, which it implements a second time:

* The *watermark* at an event is the greatest event time in its partition so far, its own included, less `lateness`. No
  event counts there with more than its append time.
* An event is *late*, and is ignored, when its time + life ≤ watermark; life = window + known.
* Events further than `ahead` after their append time are dead letters.
* A page's labels depend on the records before the watermark reaches its time + life, its *end*.
* Another page of the same user and request id *extends* the first one until that one's end: items that aren't on it yet
  continue its positions, up to ITEMS_MAX; the whole page has the first one's event time. A page that adds no item, or
  is another user's, is a repetition.
* An install belongs to the page that its request id names, else to the newest page (event time, then order of the
  first pages) of that user with that item; in both cases with page time ≤ install time < page time + window. An install
  that names its page may be up to `skew` older than it.
* A page, or an extension of one, that follows the install in the log gets it only while the watermark there is before
  install time + `early` (life by default).
* Repeated installs count once, while their id is known (`install_dedup.py`); a retraction voids an install of its id
  that isn't newer.
* An install is *organic* when no page ever had a claim on it, and it isn't void when the watermark reaches its time +
  life.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

from stream.events.types import ITEMS_MAX
from thalweg.audit.install_dedup import deduplicate
from thalweg.audit.log_events import NEVER, InstallEvent, LogEvent, PageEvent
from thalweg.audit.rules import AuditRules


@dataclass(slots=True)
class Page:
    """A page that counts. `parts`: the first page and its extensions; `added`: the new items of each part.

    An item's index in `items` is its position in example ids.
    """

    parts: list[PageEvent]
    added: list[list[str]]
    positives: frozenset[str] = frozenset()

    @property
    def first(self) -> PageEvent:
        """The first page: its user and event time are the whole page's."""
        return self.parts[0]

    @property
    def items(self) -> list[str]:
        """All items, in the order of positions."""
        return self.added[0] if len(self.added) == 1 else [item for some in self.added for item in some]

    def extend(self, further: PageEvent) -> bool:
        """Add the items that are new; False if there are none."""
        there = set(self.items)
        new = [item for item in further.items if item not in there][: ITEMS_MAX - len(there)]
        if new:
            self.parts.append(further)
            self.added.append(new)
        return bool(new)


@dataclass(slots=True)
class Joined:
    """The result for one partition's events."""

    pages: list[Page] = field(default_factory=list)
    organic: list[InstallEvent] = field(default_factory=list)
    late: int = 0
    repeated: int = 0
    extended: int = 0


def offline_join(events: Iterable[LogEvent], rules: AuditRules, foreign_pages: Container[int] = ()) -> Joined:
    """Join events of one partition, in order: all of them, or all of some users.

    `foreign_pages`: the `seq` of pages whose request id another user's page has already, which isn't among the events.
    """
    joined = Joined()
    installs: defaultdict[tuple[str, str], list[InstallEvent]] = defaultdict(list)
    known: dict[str, Page] = {}
    for event in events:
        if event.time_ms + rules.life_ms <= event.watermark_ms:
            joined.late += 1
        elif isinstance(event, InstallEvent):
            installs[event.user, event.install_id].append(event)
        elif event.seq in foreign_pages:
            joined.repeated += 1
        else:
            _add_page(event, known, joined, rules)
    counting = [one for of_id in installs.values() for one in deduplicate(of_id, rules.life_ms)]
    all_claims = _Claims(joined.pages, counting)
    for install, void in counting:
        claims = sorted(all_claims.on(install, rules), key=_page_order, reverse=True)
        void_ms = NEVER if void is None else void.watermark_ms
        better_ms = NEVER  # the watermark from which a better page was known
        for page, part in claims:
            end_ms = page.first.time_ms + rules.life_ms
            if min(better_ms, void_ms) >= end_ms:
                page.positives |= {install.item}
            better_ms = min(better_ms, part.watermark_ms)
        if not claims and void_ms >= install.time_ms + rules.life_ms:
            joined.organic.append(install)
    return joined


def _add_page(event: PageEvent, known: dict[str, Page], joined: Joined, rules: AuditRules) -> None:
    page = known.get(event.request_id)
    if page is None or event.watermark_ms >= page.first.time_ms + rules.life_ms:
        page = known[event.request_id] = Page([event], [event.items])
        joined.pages.append(page)
    elif page.first.user == event.user and page.extend(event):
        joined.extended += 1
    else:
        joined.repeated += 1


Claim = tuple[Page, PageEvent]  # a page, and its part that shows the item


def _page_order(claim: Claim) -> tuple[int, int]:
    """Of two pages the newer one has the better claim."""
    return claim[0].first.time_ms, claim[0].first.seq


class _Claims:
    """The pages that showed the items of installs, by user and item, in order of the pages' event times."""

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
            claims.sort(key=_page_order)

    def on(self, install: InstallEvent, rules: AuditRules) -> Iterator[Claim]:
        """Every page that ever had a claim on an install."""
        shown = self._claims.get((install.user, install.item), [])
        begin = bisect_left(shown, (install.time_ms - rules.window_ms + 1, 0), key=_page_order)
        for page, part in shown[begin:]:
            is_named = install.request_id == page.first.request_id
            if page.first.time_ms > install.time_ms + rules.skew_ms:
                return
            if (
                (is_named or not install.request_id)
                and page.first.time_ms <= install.time_ms + (rules.skew_ms if is_named else 0)
                and install.watermark_ms < page.first.time_ms + rules.life_ms
                and (part.seq < install.seq or part.watermark_ms < install.time_ms + rules.waits_ms)
            ):
                yield page, part
