"""The offline join by cases written down by hand: it is the oracle of the joiner's tests and of the audit."""

from dataclasses import replace

import pytest

from stream.events.types import ITEMS_MAX, Impression, SourceEvent, Tick
from stream.joiner.label_rules import LabelRules
from tests.support.join_events import FAR, install, page, retraction
from tests.support.join_oracle import joined, offline, organic

RULES = LabelRules(policy="eager", window_ms=10, lateness_ms=0, known_ms=5, skew_ms=3)


def positives(*events: SourceEvent, rules: LabelRules = RULES) -> set[tuple[str, str]]:
    """(request id, item) of every label 1."""
    return {key for key, label in offline([*events, FAR], rules).items() if label}


def of_page(*events: SourceEvent) -> list[list[str]]:
    """The items of each page that counts, whatever extends it."""
    return [page.items for page in joined([*events, FAR], RULES).pages]


@pytest.mark.parametrize(("after_ms", "counts"), [(-1, False), (0, True), (9, True), (10, False)])
def test_an_install_counts_from_its_page_on_until_the_window_is_over(after_ms: int, counts: bool) -> None:
    """The window's end is exclusive."""
    assert positives(page("r", 100), install("i", 100 + after_ms)) == ({("r", "a")} if counts else set())


def test_every_item_without_an_install_is_a_negative() -> None:
    """And so is one that wasn't shown: an install of it is no label of the page."""
    assert offline([page("r", 100), install("i", 101, "z"), FAR], RULES) == {("r", "a"): 0, ("r", "b"): 0}


def test_the_newest_page_with_the_item_has_the_install() -> None:
    """Of pages of one event time the one that comes later in the log."""
    assert positives(page("r", 100), page("s", 101), install("i", 102)) == {("s", "a")}
    assert positives(page("s", 101), page("r", 100), install("i", 102)) == {("s", "a")}
    assert positives(page("r", 100), page("s", 100), install("i", 102)) == {("s", "a")}
    assert positives(page("r", 100), page("s", 101, "b"), install("i", 102)) == {("r", "a")}
    assert positives(page("r", 100), page("s", 101, user="v"), install("i", 102)) == {("r", "a")}


def test_an_install_that_names_a_page_belongs_to_that_one_or_to_none() -> None:
    """Not to a newer one, nor to an older one when the item isn't on it."""
    assert positives(page("r", 100), page("s", 101), install("i", 102, "a", "r")) == {("r", "a")}
    assert positives(page("r", 100), page("s", 101, "b"), install("i", 102, "a", "s")) == set()


@pytest.mark.parametrize(("before_ms", "counts"), [(1, True), (3, True), (4, False)])
def test_an_install_may_be_older_than_the_page_that_it_names_by_the_skew(before_ms: int, counts: bool) -> None:
    """Wherever it stands in the log; one that names no page may not."""
    named, wanted = install("i", 100 - before_ms, "a", "r"), {("r", "a")} if counts else set()
    assert positives(page("r", 100), named) == positives(named, page("r", 100)) == wanted
    assert positives(page("r", 100), install("i", 100 - before_ms)) == set()
    assert positives(page("r", 100), named, rules=replace(RULES, skew_ms=0)) == set()
    assert organic([page("r", 100), named, FAR], RULES) == (set() if counts else {("u", "i")})


def test_skew_changes_nothing_about_the_windows_end() -> None:
    """An install that names its page is no longer in time than another."""
    assert positives(page("r", 100), install("i", 109, "a", "r")) == {("r", "a")}
    assert positives(page("r", 100), install("i", 110, "a", "r")) == set()


def test_what_comes_when_the_page_is_known_no_more_changes_nothing() -> None:
    """An install, a retraction or a newer page, when event time has passed window and time for corrections."""
    assert positives(page("r", 100), Tick(114), install("i", 101)) == {("r", "a")}
    assert positives(page("r", 100), Tick(115), install("i", 101)) == set()
    before = (page("r", 100), install("i", 105))
    assert positives(*before, Tick(114), retraction("i", 106)) == set()
    assert positives(*before, Tick(115), retraction("i", 106)) == {("r", "a")}
    assert positives(*before, Tick(114), page("s", 103)) == {("s", "a")}
    assert positives(*before, Tick(115), page("s", 103)) == {("r", "a"), ("s", "a")}


def test_an_event_that_is_late_where_it_stands_counts_for_nothing() -> None:
    """As if it had never been."""
    assert of_page(Tick(115), page("r", 100), page("s", 101)) == [["a", "b"]]
    assert joined([Tick(115), page("r", 100), install("i", 100), FAR], RULES).late == 2


def test_an_event_counts_for_its_own_arrival_at_most() -> None:
    """One from the future makes nothing late."""
    log: list[SourceEvent] = [page("r", 100), Tick(200), install("i", 101), FAR]
    assert offline(log, RULES, [100, 101, 102, FAR.time_ms])["r", "a"] == 1
    assert offline(log, RULES)["r", "a"] == 0


def test_an_install_waits_for_its_page_as_long_as_the_spec_says() -> None:
    """By event time, counted from its own; without a limit as long as it is remembered."""
    rules = replace(RULES, early_ms=4)
    assert positives(install("i", 100), Tick(103), page("r", 99), rules=rules) == {("r", "a")}
    assert positives(install("i", 100), Tick(104), page("r", 99), rules=rules) == set()
    assert positives(install("i", 100), Tick(104), page("r", 99)) == {("r", "a")}


def test_an_install_is_void_when_its_retraction_is_not_older() -> None:
    """Whichever of the two comes first; another user's retraction is none."""
    assert positives(page("r", 100), install("i", 102), retraction("i", 102)) == set()
    assert positives(page("r", 100), retraction("i", 102), install("i", 102)) == set()
    assert positives(page("r", 100), install("i", 102), retraction("i", 101)) == {("r", "a")}
    assert positives(page("r", 100), install("i", 102), retraction("i", 103, user="v")) == {("r", "a")}


def test_an_install_counts_once() -> None:
    """Of one id the first counts, whatever item the second one has."""
    assert positives(page("r", 100), install("i", 101, "b"), install("i", 102)) == {("r", "b")}


def test_an_install_without_a_page_is_organic() -> None:
    """Unless it is taken back while it is known, or a page had it once, though a newer one came too late to be its."""
    assert organic([page("r", 100), install("i", 101, "z"), FAR], RULES) == {("u", "i")}
    assert organic([install("i", 101), retraction("i", 101), FAR], RULES) == set()
    assert organic([install("i", 101), Tick(116), retraction("i", 110), FAR], RULES) == {("u", "i")}
    assert organic([page("r", 100), install("i", 101), FAR], RULES) == set()


def test_a_further_page_extends_the_page_of_its_request_id() -> None:
    """Its new items continue the positions; items that are on the page already are ignored, and so is a copy."""
    assert of_page(page("r", 100, "ab"), page("r", 104, "cd"), page("r", 103, "be")) == [list("abcde")]
    found = joined([page("r", 100, "ab"), page("r", 101, "bc"), page("r", 100, "ab"), page("r", 102, "c"), FAR], RULES)
    assert (found.extended, found.repeated) == (1, 2)
    assert [part.items for part in found.pages[0].parts] == [["a", "b"], ["b", "c"]]
    assert found.pages[0].added == [["a", "b"], ["c"]]


def test_an_extension_has_its_pages_event_time() -> None:
    """Earlier or later by itself: window and end are the first page's."""
    for own_ms in (98, 100, 106):
        first, further = page("r", 100, "a"), page("r", own_ms, "b")
        assert positives(first, further, install("i", 100, "b")) == {("r", "b")}
        assert positives(first, further, install("i", 99, "b")) == set()
        assert positives(first, further, install("i", 109, "b")) == {("r", "b")}
        assert positives(first, further, install("i", 110, "b")) == set()
        assert positives(first, further, Tick(114), install("i", 101, "b")) == {("r", "b")}
        assert positives(first, further, Tick(115), install("i", 101, "b")) == set()


def test_a_page_is_extended_while_it_is_known() -> None:
    """Also after its window's end; then the request id is another page's."""
    assert of_page(page("r", 100, "a"), Tick(114), page("r", 113, "b")) == [["a", "b"]]
    assert of_page(page("r", 100, "a"), Tick(115), page("r", 113, "b")) == [["a"], ["b"]]
    assert positives(page("r", 100, "a"), install("i", 101, "b"), Tick(114), page("r", 113, "b")) == {("r", "b")}


def test_an_extension_that_is_late_by_itself_counts_for_nothing() -> None:
    """As any event that is older than all that is remembered."""
    assert of_page(page("r", 100, "a"), Tick(110), page("r", 95, "b")) == [["a"]]


def test_a_further_page_of_another_user_is_a_repetition() -> None:
    """It adds nothing, and has no installs."""
    log: list[SourceEvent] = [page("r", 100, "a"), page("r", 101, "b", "v"), install("i", 102, "b", "r", "v"), FAR]
    assert offline(log, RULES) == {("r", "a"): 0}
    assert joined(log, RULES).repeated == 1
    assert organic(log, RULES) == {("v", "i")}


def test_an_extension_makes_no_page_newer_than_it_was() -> None:
    """A page's claim goes by its first part: event time, then order, whatever extended it since."""
    older, newer = page("r", 100, "a"), page("s", 101, "b")
    assert positives(older, newer, page("r", 102, "b"), install("i", 103, "b")) == {("s", "b")}
    same = page("s", 100, "b")
    assert positives(older, same, install("i", 103, "b"), page("r", 102, "b")) == {("s", "b")}
    assert positives(older, page("s", 99, "b"), install("i", 103, "b"), page("r", 102, "b")) == {("r", "b")}


def test_an_install_waits_for_what_extends_its_page() -> None:
    """An item that is shown behind its install in the log: no longer than for a page."""
    rules = replace(RULES, early_ms=4)
    early = (page("r", 100, "a"), install("i", 101, "b"))
    assert positives(*early, Tick(104), page("r", 102, "b"), rules=rules) == {("r", "b")}
    assert positives(*early, Tick(105), page("r", 102, "b"), rules=rules) == set()


def test_a_page_has_a_limit_whatever_extends_it() -> None:
    """What goes beyond is cut off."""
    first = Impression("r", 100, "u", [f"a{k}" for k in range(ITEMS_MAX - 1)])
    further = Impression("r", 101, "u", ["a0", "b", "c"])
    (items,) = of_page(first, further, Impression("r", 102, "u", ["d"]))
    assert items == [*first.items, "b"]
