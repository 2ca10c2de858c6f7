"""The join against the offline join: whatever comes, in whatever order, killed anywhere; 20,000 cases with SOAK=1."""

import os
from dataclasses import replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stream.events.types import (
    INSTALLED,
    LATE_POSITIVE,
    RETRACTION,
    WINDOW_CLOSED,
    Examples,
    Impression,
    Install,
    Organic,
    SourceEvent,
    Tick,
)
from stream.joiner.join import Joiner, RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import to_examples
from stream.joiner.record_cache import RecordCache
from stream.joiner.record_events import to_record
from stream.spec.parts import Policy
from tests.support.join_events import FAR, NOW, POLICIES, ids, install, page, retraction, rows
from tests.support.join_oracle import check_labels, net_of, organic
from tests.support.join_strategies import (
    ITEMS,
    START,
    USERS,
    flows,
    names,
    one_page_ids,
    packed,
    plans,
    played,
    restamped,
    rule_sets,
    sizes,
    sources,
    with_restarts,
)

SOAK = bool(os.environ.get("SOAK"))
KILLED_AT_EACH = 400 if SOAK else 60  # stories in which the joiner is killed at each record, which takes its square


@settings(max_examples=100, deadline=None)
@given(events=sources(), rules=rule_sets())
def test_net_labels_equal_the_offline_join(events: list[SourceEvent], rules: LabelRules) -> None:
    """Whatever the order, repetition and policy: the last label per page and item is the offline join's."""
    joiner = Joiner(rules)
    log = [*events, FAR]
    emitted = [examples for offset, event in enumerate(log) for examples in joiner.feed([event], offset, NOW + offset)]
    check_labels(emitted, log, rules)


@settings(max_examples=200, deadline=None)
@given(events=sources(), rules=rule_sets())
def test_an_example_is_counted_once(events: list[SourceEvent], rules: LabelRules) -> None:
    """The first label of a position, and no other, is emitted as such; what follows is emitted as a correction."""
    joiner = Joiner(rules)
    log = [*events, FAR]
    emitted = [row for k, event in enumerate(log) for row in rows(joiner.feed([event], k, NOW + k))]
    labelled: set[tuple[str, int]] = set()
    for request_id, position, label, reason in emitted:
        if request_id not in one_page_ids(log):
            continue
        if (request_id, position) in labelled:
            assert reason == (LATE_POSITIVE if label else RETRACTION)
        else:
            assert reason in (INSTALLED, WINDOW_CLOSED)
        labelled.add((request_id, position))


@settings(max_examples=200, deadline=None)
@given(events=sources(), rules=rule_sets(), plan=plans, sizes=sizes)
def test_restarts_change_no_net_label(
    events: list[SourceEvent], rules: LabelRules, plan: list[tuple[int, int]], sizes: list[int]
) -> None:
    """Killed anywhere and started at the last restart point, as often as you like: same net labels, same ids."""
    log = [*events, FAR]
    emitted = with_restarts(packed(log, sizes), rules, plan)
    check_labels(emitted, log, rules)
    unbroken = with_restarts(packed(log, sizes), rules, [])
    assert ids(emitted) == ids(unbroken)


@settings(max_examples=300, deadline=None)
@given(events=sources(), rules=rule_sets(), plan=plans, steps=st.lists(st.integers(0, 20), min_size=1))
def test_events_from_the_future_change_what_the_offline_join_says_they_do(
    events: list[SourceEvent], rules: LabelRules, plan: list[tuple[int, int]], steps: list[int]
) -> None:
    """Many events are stamped later than they came: labels and organic installs are the oracle's, with restarts too."""
    log = [*events, FAR]
    ingests = [90 + sum(steps[j % len(steps)] for j in range(k)) for k in range(len(events))] + [FAR.time_ms]
    written = list[Organic]()
    joiner = Joiner(rules)
    for offset, event in enumerate(log):
        joiner.feed([event], offset, ingests[offset])
        written += joiner.organic
    check_labels(with_restarts(packed(log, [1]), rules, plan, ingests), log, rules, ingests)
    assert not rules.organic or names(written) == organic(log, rules, ingests)


@settings(max_examples=100, deadline=None)
@given(events=sources(), rules=rule_sets(), sizes=sizes)
def test_packing_changes_nothing(events: list[SourceEvent], rules: LabelRules, sizes: list[int]) -> None:
    """How events are packed into records changes no label, id or order."""
    one, packs = Joiner(rules), Joiner(rules)
    singly = [e for k, event in enumerate(events) for e in one.feed([event], k, NOW)]
    together = [e for k, record in enumerate(packed(events, sizes)) for e in packs.feed(record, k, NOW)]
    assert singly == together


@settings(max_examples=150, deadline=None)
@given(events=sources(), rules=rule_sets(), plan=plans, sizes=sizes, bytes_max=st.sampled_from([0, 900, 2_000]))
def test_full_memory_closes_what_is_oldest_and_a_restart_decides_the_same(
    events: list[SourceEvent], rules: LabelRules, plan: list[tuple[int, int]], sizes: list[int], bytes_max: int
) -> None:
    """However little may be remembered: never more, every page emitted once, the same after restarts and repacking.

    But for a page that others extended: a restart may read some of them again without the first.
    """
    bounded = replace(rules, bytes_max=bytes_max)
    log = [*events, FAR]
    joiner, unbroken = Joiner(bounded), []
    for offset, event in enumerate(log):
        unbroken += joiner.feed([event], offset, NOW + offset)
        assert joiner.state_bytes <= bytes_max
    once = one_page_ids(log)
    if once == {event.request_id for event in log if isinstance(event, Impression)}:
        assert ids(with_restarts(packed(log, sizes), bounded, plan)) == ids(unbroken)
    firsts = [
        (name, place) for name, place, _, why in rows(unbroken) if name in once and why in (INSTALLED, WINDOW_CLOSED)
    ]
    assert len(firsts) == len(set(firsts))


@settings(max_examples=300, deadline=None)
@given(events=st.one_of(sources(), flows()), rules=rule_sets())
def test_organic_is_what_no_page_claimed(events: list[SourceEvent], rules: LabelRules) -> None:
    """Emitted are exactly the installs that no page claims and nobody takes back: as they came, and each once.

    A copy with another time than the first may come when that is forgotten: then it's another install.
    """
    log = [*events, FAR]
    joiner, written = Joiner(replace(rules, organic=True)), list[Organic]()
    for offset, event in enumerate(log):
        joiner.feed([event], offset, NOW + offset)
        written += joiner.organic
    assert names(written) == organic(log, rules)
    assert len(written) == joiner.counts.organic
    times = {(one.user, one.install_id, one.time_ms) for one in log if isinstance(one, Install)}
    if len(times) == len({(user, install_id) for user, install_id, _ in times}):
        assert len(written) == len(names(written))
    assert joiner.oldest_needed_offset() is None
    for one in written:
        assert (
            log.index(Install(one.user, one.item, one.time_ms, one.install_id, one.request_id)) == one.ingest_ms - NOW
        )


def of_one_user_each(events: list[SourceEvent]) -> list[SourceEvent]:
    """Without pages whose request id an earlier page of another user has."""
    users: dict[str, str] = {}
    return [
        event for event in events
        if not isinstance(event, Impression) or users.setdefault(event.request_id, event.user) == event.user
    ]  # fmt: skip


@settings(max_examples=KILLED_AT_EACH, deadline=None)
@given(events=flows(), rules=rule_sets(), sizes=sizes, kill=st.integers(1, 24))
def test_organic_is_the_same_wherever_a_joiner_is_killed(
    events: list[SourceEvent], rules: LabelRules, sizes: list[int], kill: int
) -> None:
    """From whichever commit the next joiner starts, and the one after that: nothing more is emitted, nothing lost.

    Where each request id is one user's: a page that is read again without one of another user before it, which had its
    request id, may count as a page of its own (`join.py`).
    """
    rules = replace(rules, organic=True)
    log = [*of_one_user_each(events), FAR]
    records, wanted = packed(log, sizes), organic(log, rules)
    for first in range(1, len(records)):
        before, joiner = played(records, rules, START, first)
        stored = joiner.restart_point(first)
        assert before | played(records, rules, stored, len(records))[0] == wanted
        if first == kill:
            for second in range(stored.offset + 1, len(records)):
                between, joiner = played(records, rules, stored, second)
                after, _ = played(records, rules, joiner.restart_point(second), len(records))
                assert before | between | after == wanted


@settings(max_examples=KILLED_AT_EACH, deadline=None)
@given(events=restamped(), rules=rule_sets(), sizes=sizes)
def test_what_comes_again_with_another_time_is_the_same_wherever_a_joiner_is_killed(
    events: list[SourceEvent], rules: LabelRules, sizes: list[int]
) -> None:
    """The first that was read counts. No commit passes it while its copy, read alone, would be taken for another.

    Of several copies with as many times this isn't true: one, read alone, can hide the next.
    """
    records = packed([*events, FAR], sizes)
    unbroken, all_organic = with_restarts(records, rules, []), played(records, rules, START, len(records))[0]
    for first in range(1, len(records)):
        before, joiner = played(records, rules, START, first)
        stored = joiner.restart_point(first)
        emitted = with_restarts(records, rules, [(first - 1, 1)])
        assert net_of(emitted) == net_of(unbroken)
        assert ids(emitted) == ids(unbroken)
        assert before | played(records, rules, stored, len(records))[0] == all_organic


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("again_ms", [111, 121, 124, 125, 126])
def test_a_retraction_outlives_its_install_wherever_a_joiner_is_killed(policy: Policy, again_ms: int) -> None:
    """Whoever reads it alone knows it. So does who read its install: the same install again has come too late."""
    rules = LabelRules(policy, window_ms=10, known_ms=0, lateness_ms=30, organic=True, skew_ms=0)
    rules = replace(rules, delays_ms=(2, 7)) if policy == "delayed_negative" else rules
    log: list[SourceEvent] = [install("i", 100, "a"), retraction("i", 125, "a"), Tick(140)]
    log += [page("r", again_ms - 1, "a"), install("i", again_ms, "a"), FAR]
    records = packed(log, [1])
    for first in range(1, len(records)):
        emitted = with_restarts(records, rules, [(first - 1, 1)])
        before, joiner = played(records, rules, START, first)
        after, last = played(records, rules, joiner.restart_point(first), len(records))
        assert net_of(emitted) == {("r", "a"): int(again_ms > 125)}
        assert (before | after, last.counts.stray, last.oldest_needed_offset()) == (set(), 0, None)


@settings(max_examples=KILLED_AT_EACH, deadline=None)
@given(events=flows(), rules=rule_sets(), kill=st.integers(1, 24))
def test_organic_is_emitted_and_counted_from_a_window_after_it_was_switched_on(
    events: list[SourceEvent], rules: LabelRules, kill: int
) -> None:
    """A joiner that goes on from one without `organic` can't know what was claimed before; neither can its count."""
    log = [*events, FAR]
    records, off, on = packed(log, [1]), replace(rules, organic=False), replace(rules, organic=True)
    times = {(e.user, e.install_id): e.time_ms for e in reversed(log) if isinstance(e, Install) and not e.retracted}
    for first in range(1, len(records)):
        none, joiner = played(records, off, START, first)
        stored = joiner.restart_point(first)
        sure = {name for name in organic(log, rules) if times[name] >= stored.finished_ms + rules.window_ms}
        written, _ = played(records, on, stored, len(records))
        assert (none, written) == (set(), sure)
        assert played(records, off, stored, len(records))[1].counts.organic == len(sure)
        if first == kill:
            for second in range(stored.offset + 1, len(records)):
                between, joiner = played(records, on, stored, second)
                after, _ = played(records, on, joiner.restart_point(second), len(records))
                assert between | after == sure


@settings(max_examples=KILLED_AT_EACH, deadline=None)
@given(events=st.one_of(sources(), flows()), rules=rule_sets(), bytes_max=st.sampled_from([0, 900, 2_000, 4_000]))
def test_full_memory_keeps_silent_about_what_it_made_organic(
    events: list[SourceEvent], rules: LabelRules, bytes_max: int
) -> None:
    """An install less than a window after a floor may have lost its page to it: it isn't emitted. Every other one is.

    A further page that is read again without the page that it extended is one of its own: then a restart may differ,
    and more installs may have lost their page than those near the floor.
    """
    log, bounded = [*events, FAR], replace(rules, bytes_max=bytes_max, organic=True)
    records, wanted = packed(log, [1]), organic(log, rules)
    unbroken, joiner = played(records, bounded, START, len(records))
    times = {(e.user, e.install_id): e.time_ms for e in reversed(log) if isinstance(e, Install) and not e.retracted}
    floor_ms = joiner.restart_point(len(records)).floor_ms
    assert unbroken <= wanted
    times_of = {(e.request_id, e.time_ms) for e in log if isinstance(e, Impression)}
    if len(times_of) > len({request_id for request_id, _ in times_of}):
        return
    assert {name for name in wanted if times[name] >= floor_ms + rules.window_ms} <= unbroken
    for first in range(1, len(records)):
        before, joiner = played(records, bounded, START, first)
        assert before | played(records, bounded, joiner.restart_point(first), len(records))[0] == unbroken


@settings(max_examples=200, deadline=None)
@given(
    events=st.one_of(sources(), flows()), rules=rule_sets(), sizes=sizes,
    bytes_max=st.sampled_from([None, 0, 900, 2_000]), most=st.integers(1, 2),
)  # fmt: skip
def test_a_burst_in_parts_changes_nothing(
    events: list[SourceEvent], rules: LabelRules, sizes: list[int], bytes_max: int | None, most: int
) -> None:
    """However small the parts: the same labels, organic installs and state, in the same order."""
    rules = replace(rules, bytes_max=bytes_max)
    whole, cut, bodies = Joiner(rules), Joiner(rules), RecordCache()
    for offset, record in enumerate(packed([*events, FAR], sizes)):
        emitted, one = whole.feed(record, offset, NOW), to_record(record)
        bodies.put(offset, one.raw)
        parts, organics = list[Examples](), list[Organic]()
        with patch("stream.joiner.join.FIRED_MAX", most):
            for part in cut.join_records(one.at_offset(offset, NOW)):
                assert len(part.labels) <= len(record) + most * (1 + len(record))
                parts += to_examples(part.labels, bodies)
                organics += part.organic.get(0, ())
        assert parts == emitted
        assert (organics, cut.counts, cut.state_bytes) == (whole.organic, whole.counts, whole.state_bytes)
        assert cut.restart_point(offset + 1) == whole.restart_point(offset + 1)


class JoinMachine(RuleBasedStateMachine):
    """Events come in any order, some again, some late; now and then the joiner commits, or is killed."""

    @initialize(rules=rule_sets())
    def begin(self, rules: LabelRules) -> None:
        """An empty log."""
        self.label_rules = rules
        self.records: list[list[SourceEvent]] = []
        self.events: list[SourceEvent] = []
        self.now_ms = 100
        self.joiner = Joiner(rules)
        self.emitted: list[Examples] = []
        self.organic: list[Organic] = []
        self.stored, self.confirmed = RestartPoint(0, 0, 0), (0, 0)

    def put(self, *events: SourceEvent) -> None:
        """One record."""
        self.events += events
        self.records.append(list(events))
        offset = len(self.records) - 1
        self.feed(offset)

    def feed(self, offset: int) -> None:
        """The joiner takes a record."""
        self.emitted += self.joiner.feed(self.records[offset], offset, NOW + offset)
        self.organic += self.joiner.organic

    @rule(ago=st.integers(0, 12), items=st.sets(st.sampled_from(ITEMS), min_size=1), user=st.sampled_from(USERS))
    def shown(self, ago: int, items: set[str], user: str) -> None:
        """A page, perhaps out of order or late."""
        self.put(page(f"r{len(self.records)}", self.now_ms - ago, "".join(sorted(items)), user))

    @rule(ago=st.integers(-2, 12), item=st.sampled_from(ITEMS), user=st.sampled_from(USERS))
    def installed(self, ago: int, item: str, user: str) -> None:
        """An install that names no page: early, in time, late or organic."""
        self.put(install(f"i{len(self.records)}", self.now_ms - ago, item, "", user))

    @precondition(lambda self: any(isinstance(e, Impression) for e in self.events))
    @rule(data=st.data(), after=st.integers(-1, 12))
    def installed_from(self, data: st.DataObject, after: int) -> None:
        """An install that names its page."""
        shown = data.draw(st.sampled_from([e for e in self.events if isinstance(e, Impression)]))
        item = data.draw(st.sampled_from(shown.items))
        self.put(install(f"i{len(self.records)}", shown.time_ms + after, item, shown.request_id, shown.user))

    @precondition(lambda self: any(isinstance(e, Install) for e in self.events))
    @rule(data=st.data(), after=st.integers(-1, 14))
    def retracted(self, data: st.DataObject, after: int) -> None:
        """An install is taken back, soon or late."""
        taken = data.draw(st.sampled_from([e for e in self.events if isinstance(e, Install)]))
        self.put(retraction(taken.install_id, taken.time_ms + after, taken.item, taken.user))

    @precondition(lambda self: self.events)
    @rule(data=st.data(), count=st.integers(1, 3))
    def repeated(self, data: st.DataObject, count: int) -> None:
        """Events come again, together in one record."""
        self.put(*(data.draw(st.sampled_from(self.events)) for _ in range(count)))

    @rule(step=st.integers(0, 9), ticked=st.booleans())
    def time_passes(self, step: int, ticked: bool) -> None:
        """With or without a tick."""
        self.now_ms += step
        if ticked:
            self.put(Tick(self.now_ms))

    @rule()
    def committed(self) -> None:
        """What was emitted so far is confirmed, and the restart point stored."""
        self.stored = self.joiner.restart_point(len(self.records))
        self.confirmed = len(self.emitted), len(self.organic)

    @rule(lost=st.integers(0, 5))
    def killed(self, lost: int) -> None:
        """Some of what wasn't confirmed is lost; another joiner reads on from the commit."""
        del self.emitted[max(self.confirmed[0], len(self.emitted) - lost) :]
        del self.organic[max(self.confirmed[1], len(self.organic) - lost) :]
        self.joiner = Joiner(self.label_rules, self.stored)
        for offset in range(self.stored.offset, len(self.records)):
            self.feed(offset)

    @invariant()
    def restart_point_is_exact(self) -> None:
        """A commit never passes what is remembered, and memory is counted exactly."""
        oldest = self.joiner.oldest_needed_offset()
        next_offset = self.joiner.restart_point(len(self.records)).offset
        assert next_offset == (len(self.records) if oldest is None else oldest)
        assert (self.joiner.state_bytes == 0) == (oldest is None)

    def teardown(self) -> None:
        """Once all is in, the net labels are the offline join's, and organic is what it leaves without a page."""
        self.put(FAR)
        check_labels(self.emitted, self.events, self.label_rules)
        wanted = organic(self.events, self.label_rules) if self.label_rules.organic else set()
        assert names(self.organic) == wanted


TestJoinMachine = JoinMachine.TestCase
TestJoinMachine.settings = settings(max_examples=20_000 if SOAK else 1_000, stateful_step_count=12, deadline=None)
TestJoinMachine = pytest.mark.timeout(7_200 if SOAK else 600)(TestJoinMachine)
