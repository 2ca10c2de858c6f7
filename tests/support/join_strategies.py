"""Hypothesis strategies of logs and rules for the join, and joiners that are killed while they read them."""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import msgspec
from hypothesis import strategies as st

from stream.events.types import (
    Examples,
    Impression,
    Organic,
    SourceEvent,
    Tick,
)
from stream.joiner.join import Joiner, RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.spec.parts import DELAYS_MAX, Policy
from tests.support.join_events import NOW, install, page, retraction

USERS, ITEMS = "uv", "abc"
SKEWS = (0, 2, 5)
times = st.integers(100, 160)
Name = tuple[str, str]  # user, install id
START = RestartPoint(0, 0, 0)


@st.composite
def extensions(draw: st.DrawFn, pages: Sequence[Impression]) -> list[SourceEvent]:
    """Further pages under request ids of these, with items of theirs and others, now and then of another user."""
    found: list[SourceEvent] = []
    for shown in draw(st.lists(st.sampled_from(pages), max_size=3)):
        items = "".join(draw(st.permutations(ITEMS + "defg"))[: draw(st.integers(1, 4))])
        user = draw(st.sampled_from([shown.user, shown.user, shown.user, *USERS]))
        found.append(page(shown.request_id, shown.time_ms + draw(st.integers(-4, 9)), items, user))
        if draw(st.booleans()):
            at = shown.time_ms + draw(st.integers(-2, 12))
            named = draw(st.sampled_from(["", shown.request_id]))
            found.append(install(f"{shown.request_id}+{len(found)}", at, items[-1], named, shown.user))
    return found


@st.composite
def sources(draw: st.DrawFn) -> list[SourceEvent]:
    """Pages, installs and retractions of few users and items in few milliseconds, in some order, some repeated."""
    n = draw(st.integers(1, 8))
    pages = [
        page(
            f"r{k}",
            draw(times),
            "".join(draw(st.sets(st.sampled_from(ITEMS), min_size=1))),
            draw(st.sampled_from(USERS)),
        )
        for k in range(n)
    ]
    events: list[SourceEvent] = list(pages)
    for k in range(draw(st.integers(0, 8))):
        near = draw(st.sampled_from(pages))
        named = draw(st.sampled_from(["", "", near.request_id, "r0"]))
        at = near.time_ms + draw(st.integers(-2, 12))
        item = draw(st.sampled_from(near.items) | st.sampled_from(ITEMS))
        events.append(install(f"i{k}", at, item, named, near.user))
        if draw(st.integers(0, 3)) == 0:
            events.append(retraction(f"i{k}", at + draw(st.integers(-1, 14)), near.items[0], near.user))
    events += [Tick(draw(times)) for _ in range(draw(st.integers(0, 2)))]
    events += draw(extensions(pages))
    events += draw(st.lists(st.sampled_from(events), max_size=4))
    if draw(st.booleans()):
        return draw(st.permutations(events))
    slack = [draw(st.integers(0, 8)) for _ in events]
    return [e for _, e in sorted(zip(slack, events, strict=True), key=lambda pair: pair[1].time_ms + pair[0])]


@st.composite
def rule_sets(draw: st.DrawFn) -> LabelRules:
    """Rules of every kind, in few milliseconds."""
    policy: Policy = draw(st.sampled_from(get_args(Policy)))
    window_ms = draw(st.sampled_from([1, 4, 10]))
    delays = st.lists(st.integers(0, window_ms), min_size=1, max_size=DELAYS_MAX)
    return LabelRules(
        policy=policy,
        window_ms=window_ms,
        lateness_ms=draw(st.sampled_from([0, 3, 100])),
        known_ms=draw(st.sampled_from([0, 3, 10])),
        early_ms=draw(st.sampled_from([None, None, 0, 3, 8])),
        organic=draw(st.booleans()),
        skew_ms=draw(st.sampled_from(SKEWS)),
        delays_ms=tuple(draw(delays)) if policy == "delayed_negative" else (),
    )


def one_page_ids(log: Sequence[SourceEvent]) -> set[str]:
    """The request ids under which no two different pages came: positions tell these apart, and no reuse."""
    pages: dict[str, set[object]] = {}
    for event in log:
        if isinstance(event, Impression):
            pages.setdefault(event.request_id, set()).add(event.time_ms)
            pages[event.request_id].add(tuple(event.items))
    return {request_id for request_id, different in pages.items() if len(different) == 2}


@st.composite
def restamped(draw: st.DrawFn) -> list[SourceEvent]:
    """Time goes on, and some pages, installs and retractions come again, each once, with another event time.

    Not pages that others extend: of several copies with as many times one, read alone, can hide the next.
    """
    log = draw(flows())
    named = Counter(event.request_id for event in log if isinstance(event, Impression))
    seen = {request_id for request_id, count in named.items() if count > 1}
    for event in draw(st.lists(st.sampled_from(log), max_size=6)):
        name = getattr(event, "request_id", "") if isinstance(event, Impression) else getattr(event, "install_id", "")
        if name and name not in seen:
            seen.add(name)
            again = msgspec.structs.replace(event, time_ms=event.time_ms + draw(st.integers(-3, 14)))
            after = log.index(event) + 1
            log.insert(draw(st.integers(after, min(len(log), after + 12))), again)
    return log


def packed(log: Sequence[SourceEvent], sizes: Sequence[int]) -> list[list[SourceEvent]]:
    """The same events in records of these sizes, over and over."""
    records, at, k = [], 0, 0
    while at < len(log):
        size = sizes[k % len(sizes)]
        records.append(list(log[at : at + size]))
        at, k = at + size, k + 1
    return records


def with_restarts(
    records: Sequence[Sequence[SourceEvent]],
    rules: LabelRules,
    plan: Sequence[tuple[int, int]],
    ingests: Sequence[int] = range(NOW, NOW + 1_000),
) -> list[Examples]:
    """Everything said when the joiner is killed as planned: (records till the commit, and then till the kill).

    `ingests`: when each record came, ms.
    """
    said: list[Examples] = []
    stored = RestartPoint(0, 0, 0)
    for till_commit, till_kill in plan:
        joiner = Joiner(rules, stored)
        commit_at = stored.offset + till_commit
        for offset in range(stored.offset, min(commit_at + till_kill, len(records))):
            said += joiner.feed(records[offset], offset, ingests[offset])
            if offset == commit_at:
                stored = joiner.restart_point(offset + 1)
    joiner = Joiner(rules, stored)
    for offset in range(stored.offset, len(records)):
        said += joiner.feed(records[offset], offset, ingests[offset])
    return said


plans = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 10)), min_size=1, max_size=5)
sizes = st.lists(st.integers(1, 3), min_size=1, max_size=3)


def names(organics: Sequence[Organic]) -> set[Name]:
    """(user, install id): what tells them apart."""
    return {(one.user, one.install_id) for one in organics}


@st.composite
def flows(draw: st.DrawFn) -> list[SourceEvent]:
    """A longer log, in which time goes on: pages are forgotten while installs that they claimed aren't yet."""
    now, pages, installs, log = 100, [page("r", 100, "ab")], [install("i", 101)], list[SourceEvent]()
    for k in range(draw(st.integers(6, 24))):
        now += draw(st.integers(0, 5))
        match draw(st.sampled_from("ppiiiirdt")):
            case "p":
                shown = page(f"r{k}", now - draw(st.integers(0, 3)), draw(st.sampled_from(["a", "b", "ab"])))
                pages.append(shown)
                log.append(shown)
                log += draw(extensions([shown, pages[0]]))
            case "i":
                at, named = now - draw(st.integers(-2, 6)), draw(st.sampled_from(["", "", "", pages[-1].request_id]))
                made = install(f"i{k}", at, draw(st.sampled_from("abz")), named)
                installs.append(made)
                log.append(made)
            case "r":
                taken = draw(st.sampled_from(installs[-3:]))
                log.append(retraction(taken.install_id, taken.time_ms + draw(st.integers(-1, 14)), taken.item))
            case "d":
                log.append(draw(st.sampled_from([*log[-6:], pages[-1]])))
            case "t":
                log.append(Tick(now))
    return log


def played(
    records: Sequence[Sequence[SourceEvent]], rules: LabelRules, stored: RestartPoint, until: int
) -> tuple[set[Name], Joiner]:
    """What a joiner that starts at `stored` tells to be organic of the records before `until`, and that joiner."""
    joiner, told = Joiner(rules, stored), list[Organic]()
    for offset in range(stored.offset, until):
        joiner.feed(records[offset], offset, NOW + offset)
        told += joiner.organic
    return names(told), joiner
