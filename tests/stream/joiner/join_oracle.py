"""The offline join: labels from all events at once, by definition and by brute force. Shares nothing with `join.py`."""

from collections.abc import Iterable, Sequence

from stream.events import Examples, Impression, Install, SourceEvent, Tick
from stream.joiner.label_rules import LabelRules

Net = dict[tuple[str, int], int]


def net_of(said: Iterable[Examples]) -> Net:
    """The last label per page and position, after examples with an id seen before are dropped."""
    seen: set[int] = set()
    net: Net = {}
    for examples in said:
        for example, position, label in zip(examples.ids, examples.positions, examples.labels, strict=True):
            if example not in seen:
                seen.add(example)
                net[examples.page.request_id, position] = label
    return net


def watermarks_of(events: Sequence[SourceEvent], rules: LabelRules, ingests: Sequence[int] | None) -> list[int]:
    """The watermark with each event."""
    arrived = ingests or [event.time_ms for event in events]
    counted = [min(event.time_ms, came_ms) - rules.lateness_ms for event, came_ms in zip(events, arrived, strict=True)]
    return [max(0, *counted[: k + 1]) for k in range(len(events))]


def offline(events: Sequence[SourceEvent], rules: LabelRules, ingests: Sequence[int] | None = None) -> Net:
    """Net labels of one partition's events in log order, once everything has closed.

    `ingests`: when each came, ms; None: after it had happened.
    """
    life_ms = rules.window_ms + rules.known_ms
    watermarks = watermarks_of(events, rules, ingests)
    in_time = [event.time_ms + life_ms > mark for event, mark in zip(events, watermarks, strict=True)]

    users = {event.user for event in events if not isinstance(event, Tick)}
    of_user: dict[str, list[int]] = {user: [] for user in users}
    for k, event in enumerate(events):
        if not isinstance(event, Tick) and in_time[k]:
            of_user[event.user].append(k)

    net: Net = {}
    taken: set[str] = set()
    for at, event in enumerate(events):
        if not isinstance(event, Impression) or not in_time[at] or event.request_id in taken:
            continue
        taken.add(event.request_id)
        # What reaches the log while the page is known decides its labels.
        known = [(k, events[k]) for k in of_user[event.user] if watermarks[k] < event.time_ms + life_ms]
        wanted = _installed(known, watermarks, event, at, rules)
        for position, item in enumerate(event.items):
            net[event.request_id, position] = int(item in wanted)
    return net


def organic(
    events: Sequence[SourceEvent], rules: LabelRules, ingests: Sequence[int] | None = None
) -> set[tuple[str, str]]:
    """(user, install id) of every install of one partition's events that no page claimed and nobody took back."""
    life_ms = rules.window_ms + rules.known_ms
    watermarks = watermarks_of(events, rules, ingests)
    in_time = [(k, event) for k, event in enumerate(events) if event.time_ms + life_ms > watermarks[k]]
    pages: dict[str, tuple[int, Impression]] = {}
    installs: dict[tuple[str, str], tuple[int, Install]] = {}
    for k, event in in_time:
        if isinstance(event, Impression):
            pages.setdefault(event.request_id, (k, event))
        elif isinstance(event, Install) and not event.retracted:
            installs.setdefault((event.user, event.install_id), (k, event))
    found = set()
    for (user, install_id), (k, install) in installs.items():
        claimed = any(
            page.user == user
            and (at > k or watermarks[k] < page.time_ms + life_ms)
            and _fits(page, at, install, k, watermarks, rules)
            for at, page in pages.values()
        )
        taken_back = any(
            isinstance(event, Install)
            and event.retracted
            and (event.user, event.install_id) == (user, install_id)
            and event.time_ms >= install.time_ms
            and watermarks[j] < install.time_ms + life_ms
            for j, event in in_time
        )
        if not claimed and not taken_back:
            found.add((user, install_id))
    return found


def _installed(
    known: Sequence[tuple[int, SourceEvent]], watermarks: Sequence[int], page: Impression, at: int, rules: LabelRules
) -> set[str]:
    """The page's items with an install, when just these events of its user are known: (place in the log, event)."""
    pages: dict[str, tuple[int, Impression]] = {}
    installs: dict[str, tuple[int, Install]] = {}
    retractions: list[Install] = []
    for k, event in known:
        if isinstance(event, Impression):
            pages.setdefault(event.request_id, (k, event))
        elif isinstance(event, Install):
            if event.retracted:
                retractions.append(event)
            else:
                installs.setdefault(event.install_id, (k, event))
    found = set()
    for k, install in installs.values():
        if not _fits(page, at, install, k, watermarks, rules):
            continue
        if any(r.install_id == install.install_id and r.time_ms >= install.time_ms for r in retractions):
            continue
        # A page that isn't older than this one, or stands behind it in the log, has the better claim.
        others = [(other.time_ms, j) for j, other in pages.values() if _fits(other, j, install, k, watermarks, rules)]
        if max(others) == (page.time_ms, at):
            found.add(install.item)
    return found


def _fits(page: Impression, at: int, install: Install, k: int, watermarks: Sequence[int], rules: LabelRules) -> bool:
    """Whether the install, at k in the log, could be this page's, at `at`: if it came first, had it waited enough?"""
    return (
        0 <= install.time_ms - page.time_ms < rules.window_ms
        and (k > at or watermarks[at] < install.time_ms + rules.waits_ms)
        and install.request_id in ("", page.request_id)
        and install.item in page.items
    )
