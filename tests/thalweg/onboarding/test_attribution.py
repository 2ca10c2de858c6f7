"""Which page an install came of, as `thalweg check` and `init` know it: the joiner's verdict, in bounded memory."""

from collections import Counter
from collections.abc import Sequence
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events.types import Impression, Install, SourceEvent
from stream.joiner.kernels.timers import BEGIN, COUNT, END
from stream.joiner.label_rules import LabelRules
from tests.support.join_oracle import joined
from tests.support.join_strategies import SKEWS, sources
from thalweg.onboarding import survey
from thalweg.onboarding.attribution import (
    ENDLESS_MS,
    NEVER_SHOWN,
    NEW,
    OTHER_PAGE,
    REPEATED,
    Added,
    Attribution,
    InstallOutcome,
)
from thalweg.onboarding.survey import Survey

T = 1_767_600_000_000
Event = Impression | Install


def page(n: int, items: str = "ab", user: str = "u", at_ms: int = 0) -> Impression:
    """The n-th page; `items` one letter each."""
    return Impression(f"r{n}", T + at_ms, user, list(items))


def install(n: int, item: str = "a", named: str = "", user: str = "u", at_ms: int = 0) -> Install:
    """The n-th install."""
    return Install(user, item, T + at_ms, f"x{n}", named)


def attributed(events: Sequence[Event], at_once: int = 1, **rules: int) -> tuple[list[Added], list[InstallOutcome]]:
    """What these add, each standing in the line of its index, and what became of the installs."""
    shown = Attribution(**rules)
    added, found = list[Added](), list[InstallOutcome]()
    lines = list(enumerate(events))
    for begin in range(0, len(lines), at_once):
        added += shown.join(lines[begin : begin + at_once])
        found += shown.end_generation()
    return added, found + shown.finish()


def surveyed(events: Sequence[SourceEvent], at_once: int, skew_ms: int) -> tuple[Survey, list[InstallOutcome]]:
    """A survey of these, each standing in the line of its index, and what became of the installs."""
    made, found = Survey(skew_ms=skew_ms), list[InstallOutcome]()
    with patch.object(survey, "BATCH", at_once):
        for line, event in enumerate(events):
            found += made.add(line, event)
    return made, found + made.finish()


@settings(max_examples=200, deadline=None)
@given(events=sources(), at_once=st.integers(1, 12), skew_ms=st.sampled_from(SKEWS))
def test_attribution_equals_the_offline_join(events: list[SourceEvent], at_once: int, skew_ms: int) -> None:
    """Whatever comes, in whatever order: pages, labels, positions, delays and organic installs are the oracle's."""
    oracle = joined(events, LabelRules(window_ms=ENDLESS_MS, known_ms=0, organic=True, skew_ms=skew_ms))
    made, found = surveyed(events, at_once, skew_ms)
    assert (made.pages, made.repeated_pages.count) == (len(oracle.pages), oracle.repeated)
    assert made.shown == sum(len(page.items) for page in oracle.pages)
    assert {one.line for one in found if one.unmatched} == {one.offset for one in oracle.organic}
    labels = [(one, events[one.line]) for one in found if not one.unmatched]
    came = [(event.user, event.item, one.position) for one, event in labels if isinstance(event, Install)]
    positives = [(page, item) for page in oracle.pages for item in page.positives]
    assert Counter(came) == Counter((page.first.user, item, page.items.index(item)) for page, item in positives)
    assert made.labels == made.delays.count == len(labels)
    times = {(item, page.first.time_ms) for page, item in positives}
    for one, event in labels:
        assert isinstance(event, Install)
        assert one.delay_ms == 0 or (event.item, event.time_ms - one.delay_ms) in times


def test_an_install_may_be_older_than_the_page_that_it_names_by_the_skew() -> None:
    """Wherever it stands; one that is older has no page."""
    for before_ms, why in ((1_000, False), (1_001, True)):
        events: list[Event] = [page(0), install(0, "a", "r0", at_ms=-before_ms)]
        for some in (events, events[::-1]):
            found = attributed(some)[1]
            assert [(one.delay_ms, one.position, bool(one.unmatched)) for one in found] == [(0, 0, why)]


def test_a_further_page_under_a_request_id_extends_the_page() -> None:
    """Its new items count as shown, at positions that go on, after the first page's time; a copy adds nothing."""
    events: list[Event] = [page(0), install(0, "c", at_ms=9), page(0, "bc", at_ms=5), page(0), page(0, "d", "v")]
    added, found = attributed(events)
    assert added == [Added(2), NEW, Added(1, 2), REPEATED, REPEATED]
    assert found == [InstallOutcome(1, 9, 2)]


def test_an_extended_page_is_one_page() -> None:
    """It counts once, with all of its items: so the share installed at a position is of pages that have it."""
    events: list[Event] = [page(0), page(0, "cd", at_ms=1), page(1, "ab", at_ms=2), install(0, "c", at_ms=3)]
    made, _ = surveyed(events, 256, 1_000)
    assert (made.pages, made.items_max) == (2, 2)
    assert [made.rate_at(position) for position in range(5)] == [(2, 0), (2, 0), (1, 1), (1, 0), (0, 0)]


def test_a_better_page_that_comes_later_counts_alone() -> None:
    """An install that stands before its page has that page's delay and position, not those of an older one."""
    events: list[Event] = [page(0, "ab"), install(0, "b", at_ms=5_001), page(1, "ba", at_ms=5_000)]
    assert attributed(events)[1] == [InstallOutcome(1, 1, 0)]


def test_an_install_that_is_taken_back_is_none() -> None:
    """It's no label, nor is it without a page; and an item that is installed twice on a page is one label."""
    back = Install("u", "a", T + 2, "x0", retracted=True)
    assert attributed([page(0), install(0, at_ms=1), back])[1] == []
    assert attributed([install(0, "z", at_ms=1), back])[1] == []
    assert attributed([page(0), install(0, at_ms=1), install(1, at_ms=2)])[1] == [InstallOutcome(1, 1, 0)]


def test_a_user_may_take_years() -> None:
    """No window ends: an install belongs to a page of decades before."""
    events: list[Event] = [page(0, at_ms=-T + 1), install(0), install(1, "z")]
    assert attributed(events)[1] == [InstallOutcome(2, unmatched=NEVER_SHOWN), InstallOutcome(1, T - 1, 0)]


def test_a_record_is_as_large_as_it_may_be() -> None:
    """Events that are too large for one record are joined in several."""
    pages = [Impression(f"r{n}", T + n, "u", [f"{k:050}" for k in range(1_000)]) for n in range(40)]
    added, found = attributed([*pages, install(0, f"{7:050}", at_ms=99)], 256)
    assert added == [Added(1_000)] * 40 + [NEW]
    assert found == [InstallOutcome(40, 60, 7)]


@pytest.mark.parametrize("at_once", [1, 7, 40])
def test_memory_is_bounded(at_once: int) -> None:
    """Of a long stream the oldest pages are forgotten; whatever is within a generation is joined as without a bound."""
    events: list[Event] = []
    for n in range(600):
        events.append(page(n, user=f"u{n % 7}", at_ms=10 * n))
        if n % 3:
            events += [install(2 * n + k, "b", user=f"u{n % 7}", at_ms=10 * n + 1) for k in range(n % 3)]
        if n % 10 == 0:
            events.append(install(2 * n, "a", f"r{n - n % 20}", user=f"u{(n - n % 20) % 7}", at_ms=10 * n))
        if n % 25 == 0:
            events.append(install(2 * n + 1, "z", "r0", user=f"u{n % 7}", at_ms=10 * n))
    bounded, whole = attributed(events, at_once, bytes_max=60_000), attributed(events, at_once)
    assert bounded[0] == whole[0]
    labels = [[one for one in found if not one.unmatched] for found in (bounded[1], whole[1])]
    assert sorted(labels[0], key=lambda one: one.line) == sorted(labels[1], key=lambda one: one.line)
    lost = [[one.line for one in found if one.unmatched] for found in (bounded[1], whole[1])]
    assert lost[0] == lost[1] == sorted(lost[0])
    assert whole[1][0].unmatched == OTHER_PAGE
    assert len([one for one in bounded[1] if one.unmatched not in ("", OTHER_PAGE)]) > 10, "r0 isn't known any more"


def test_what_is_forgotten_frees_its_memory() -> None:
    """Between one and two generations are kept: an install of an older page has none."""
    shown = Attribution(bytes_max=27_000)
    for n in range(1_000):
        user = f"u{n}"
        shown.join([(2 * n, page(n, user=user, at_ms=n)), (2 * n + 1, install(n, user=user, at_ms=n))])
        shown.end_generation()
        kept = (shown._records, shown._labels, *(half for map_ in (shown._times, shown._installs)
                                                 for half in (map_.young, map_.old)))  # fmt: skip
        assert max(map(len, kept)) <= 60
        assert shown._joiner.retained_pages <= 61
    shown.join([(2_000, install(-1, user="u3", at_ms=2_000)), (2_001, install(-2, "b", user="u999", at_ms=2_000))])
    found = shown.finish()
    assert found[0] == InstallOutcome(2_000, unmatched=NEVER_SHOWN)
    assert found[-1] == InstallOutcome(2_001, 1_001, 1)


def test_a_label_can_change_while_its_page_is_remembered() -> None:
    """A newer page takes the install over, though a generation has ended between the two."""
    others = [page(n, user=f"u{n}") for n in range(1, 8)]
    events: list[Event] = [*others, page(0), install(0, "b", at_ms=9), page(9, user="w"), page(8, "xb")]
    for at_ms, found in ((5, InstallOutcome(8, 4, 1)), (-1, InstallOutcome(8, 9, 1))):
        events[-1] = page(8, "xb", at_ms=at_ms)
        assert attributed(events, bytes_max=2_250)[1] == [found]


def test_installs_without_a_page_are_named_in_the_order_of_the_file() -> None:
    """Whatever their event times."""
    events: list[Event] = [install(n, at_ms=-n) for n in range(5)]
    assert [one.line for one in attributed(events)[1]] == [0, 1, 2, 3, 4]


def test_the_newest_first_costs_no_more() -> None:
    """What is older than all before it isn't sorted in among these: the engine's timers have it in a slot."""
    shown = Attribution()
    shown.join([(n, page(n, at_ms=-n * 86_400_000)) for n in range(50)])
    shown.join([(n, install(n, at_ms=-n * 86_400_000)) for n in range(50)])
    for timers in (*shown._joiner.state.closings, shown._joiner.state.install_expiry):
        assert timers.numbers[COUNT] == 51
        assert timers.numbers[BEGIN] == timers.numbers[END]
