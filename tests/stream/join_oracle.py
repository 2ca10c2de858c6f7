"""The offline join: labels from all events at once, by definition and by brute force. Shares nothing with `join.py`."""

from collections.abc import Iterable, Sequence

from stream.events import Examples, Impression, Install, SourceEvent, Tick
from stream.join import LabelRules

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


def offline(events: Sequence[SourceEvent], rules: LabelRules) -> Net:
    """Net labels of one partition's events in log order, once everything has closed."""
    life_ms = rules.window_ms + rules.known_ms
    greatest, watermarks = 0, []
    for event in events:
        greatest = max(greatest, event.time_ms - rules.lateness_ms)
        watermarks.append(greatest)
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
        prefix = [k for k in of_user[event.user] if watermarks[k] < event.time_ms + life_ms]
        owners = _owners([events[k] for k in prefix], rules.window_ms)
        for position, item in enumerate(event.items):
            net[event.request_id, position] = int((event.request_id, item) in owners)
    return net


def _owners(events: Sequence[SourceEvent], window_ms: int) -> set[tuple[str, str]]:
    """(request id, item) of every page and item that has an install, when just these events are known."""
    pages: dict[str, tuple[int, Impression]] = {}
    installs: dict[tuple[str, str], Install] = {}
    retractions: list[Install] = []
    for at, event in enumerate(events):
        if isinstance(event, Impression):
            pages.setdefault(event.request_id, (at, event))
        elif isinstance(event, Install):
            if event.retracted:
                retractions.append(event)
            else:
                installs.setdefault((event.user, event.install_id), event)
    owners = set()
    for key, install in installs.items():
        if any((r.user, r.install_id) == key and r.time_ms >= install.time_ms for r in retractions):
            continue
        fitting = [
            (page.time_ms, at, page.request_id)
            for at, page in pages.values()
            if page.user == install.user
            and install.item in page.items
            and 0 <= install.time_ms - page.time_ms < window_ms
            and install.request_id in ("", page.request_id)
        ]
        if fitting:
            owners.add((max(fitting)[2], install.item))
    return owners
