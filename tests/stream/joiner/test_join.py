"""The pure join: labels, corrections, what is remembered, and what a restart needs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from stream.events.codec import encode_record
from stream.events.types import (
    INSTALLED,
    LATE_POSITIVE,
    RETRACTION,
    WINDOW_CLOSED,
    Examples,
    Impression,
    Organic,
    SourceEvent,
    Tick,
)
from stream.joiner.join import Joiner, RestartPoint
from stream.joiner.label_rules import label_rules
from stream.joiner.labels import label_page
from stream.spec.parts import Label
from stream.spec.spec import Spec
from tests.support.join_events import FAR, NOW, RULES, ids, install, page, play, retraction, rows
from tests.support.join_oracle import net_of, offline


def test_eager_tells_a_positive_at_once_and_the_rest_at_the_close() -> None:
    """`eager`: positive with its install, negatives when the window closes."""
    joiner = Joiner(RULES)
    assert joiner.feed([page("r", 100)], 0, NOW + 1) == []
    first = joiner.feed([install("i", 105)], 1, NOW + 2)
    assert rows(first) == [("r", 0, 1, INSTALLED)]
    assert first[0].ingest_ms == [NOW + 2]
    assert joiner.feed([Tick(109)], 2, NOW + 3) == []
    assert rows(joiner.feed([Tick(110)], 3, NOW + 4)) == [("r", 1, 0, WINDOW_CLOSED)]
    assert joiner.open_pages == 0


def test_wait_tells_everything_at_the_close() -> None:
    """`wait`: all labels when the window closes; a positive keeps the ingest time of its install."""
    joiner = Joiner(replace(RULES, policy="wait"))
    assert joiner.feed([page("r", 100)], 0, NOW + 1) == []
    assert joiner.feed([install("i", 105, "b")], 1, NOW + 2) == []
    closed = joiner.feed([Tick(110)], 2, NOW + 3)
    assert rows(closed) == [("r", 0, 0, WINDOW_CLOSED), ("r", 1, 1, INSTALLED)]
    assert closed[0].ingest_ms == [NOW + 3, NOW + 2]


def test_fake_negative_tells_negatives_with_the_page() -> None:
    """`fake_negative`: every item negative at once, corrected when its install comes, nothing at the close."""
    rules = replace(RULES, policy="fake_negative")
    emitted = play(rules, page("r", 100), install("i", 105), FAR)
    assert emitted == [("r", 0, 0, WINDOW_CLOSED), ("r", 1, 0, WINDOW_CLOSED), ("r", 0, 1, LATE_POSITIVE)]


def test_delayed_negative_tells_a_positive_at_once_and_negatives_after_the_page_s_delay() -> None:
    """`delayed_negative`: a page closes after one of the delays; a positive is late behind that, within the window."""
    rules = replace(RULES, policy="delayed_negative", delays_ms=(2, 6))
    delays: Counter[int] = Counter()
    for k in range(200):
        joiner = Joiner(rules)
        assert joiner.feed([page(f"r{k}", 100)], 0, NOW) == []
        assert rows(joiner.feed([install("i", 101)], 1, NOW)) == [(f"r{k}", 0, 1, INSTALLED)]
        closed = next(ms for ms in range(1, 20) if rows(joiner.feed([Tick(100 + ms)], 1 + ms, NOW)))
        assert (joiner.open_pages, joiner.retained_pages) == (0, 1)
        assert rows(joiner.feed([install("j", 109, "b")], 99, NOW)) == [(f"r{k}", 1, 1, LATE_POSITIVE)]
        delays[closed] += 1
    assert delays.keys() == {2, 6}
    assert 60 < delays[2] < 140, "by hash of the request id"


def test_pages_close_in_order_of_the_time_that_is_due() -> None:
    """However far event time advances at once: a page with a short delay goes before an older one with a long delay."""
    rules = replace(RULES, policy="delayed_negative", delays_ms=(2, 6))
    pages = [page(f"r{k}", 100 + k // 10, "a") for k in range(30)]
    once, stepwise = Joiner(rules), Joiner(rules)
    emitted = rows(once.feed([*pages, Tick(120)], 0, NOW))
    found = rows(stepwise.feed(pages, 0, NOW))
    for ms in range(103, 121):
        found += rows(stepwise.feed([Tick(ms)], ms, NOW))
    assert len(emitted) == 30
    assert emitted == found


def test_the_window_is_open_at_its_start_and_closed_at_its_end() -> None:
    """An install belongs to a page if page time <= install time < page time + window."""
    assert ("r", 0, 1, INSTALLED) in play(RULES, page("r", 100), install("i", 100), FAR)
    assert ("r", 0, 1, INSTALLED) in play(RULES, page("r", 100), install("i", 109), FAR)
    assert ("r", 0, 0, WINDOW_CLOSED) in play(RULES, page("r", 100), install("i", 110), FAR)
    assert ("r", 0, 0, WINDOW_CLOSED) in play(RULES, page("r", 100), install("i", 99), FAR)


def test_the_newest_page_gets_the_install() -> None:
    """Of several pages with the item: greatest event time, then the later one in the log."""
    assert play(RULES, page("old", 100), page("new", 102), install("i", 105))[0][0] == "new"
    assert play(RULES, page("new", 102), page("old", 100), install("i", 105))[0][0] == "new"
    assert play(RULES, page("one", 100), page("two", 100), install("i", 105))[0][0] == "two"


def test_a_user_with_very_many_pages_and_installs_is_joined_alike() -> None:
    """Of thousands the one with the item is found, of those the newest; a page that an install names is it."""
    joiner = Joiner(replace(RULES, window_ms=100_000))
    joiner.feed([page(f"r{k}", 100 + k, "a" if k % 1_000 else "b") for k in range(3_000)], 0, NOW)
    said = joiner.feed([install("i", 3_200, "b"), install("j", 3_200, "a", "r5"), install("k", 3_200, "z")], 1, NOW)
    assert rows(said) == [("r2000", 0, 1, INSTALLED), ("r5", 0, 1, INSTALLED)]
    joiner.feed([install(f"i{k}", 3_200, f"item {k}") for k in range(3_000)], 2, NOW)
    said = joiner.feed([Impression("s", 3_100, "u", ["item 7", "item 2999", "x"])], 3, NOW)
    assert rows(said) == [("s", 0, 1, INSTALLED), ("s", 1, 1, INSTALLED)]


def test_a_request_id_names_the_page() -> None:
    """An install that names its page goes there, though a newer one has the item; to no other if that is unknown."""
    emitted = play(RULES, page("old", 100), page("new", 102), install("i", 105, request_id="old"))
    assert emitted == [("old", 0, 1, INSTALLED)]
    assert play(RULES, page("r", 100), install("i", 105, request_id="unknown")) == []


def test_an_install_may_come_before_its_page() -> None:
    """An install that stands in the log before its page is held for it, and counted as early."""
    joiner = Joiner(RULES)
    assert joiner.feed([install("i", 105)], 0, NOW + 1) == []
    assert rows(joiner.feed([page("r", 100)], 1, NOW + 2)) == [("r", 0, 1, INSTALLED)]
    assert joiner.counts.early == 1


def test_a_newer_page_that_comes_later_takes_the_install_over() -> None:
    """The label moves to the better page, with a correction for the first, so that order in the log doesn't matter."""
    emitted = play(RULES, page("old", 100), install("i", 105), page("new", 103))
    assert emitted == [("old", 0, 1, INSTALLED), ("old", 0, 0, RETRACTION), ("new", 0, 1, INSTALLED)]


def test_repeated_events_say_nothing_new() -> None:
    """A page with a known request id and an install with a known install id are ignored and counted."""
    joiner = Joiner(RULES)
    events: list[SourceEvent] = [page("r", 100), page("r", 100), install("i", 105), install("i", 105)]
    assert rows(joiner.feed(events, 0, NOW + 1)) == [("r", 0, 1, INSTALLED)]
    assert joiner.counts.duplicate == 2


def test_retractions_before_inside_and_after_the_window() -> None:
    """Taken back before it came: nothing. Inside and after the window: a correction. Later: nothing."""
    assert play(RULES, page("r", 100), retraction("i", 106), install("i", 105)) == []
    inside = play(RULES, page("r", 100), install("i", 105), retraction("i", 106), FAR)
    assert inside == [("r", 0, 1, INSTALLED), ("r", 0, 0, RETRACTION), ("r", 1, 0, WINDOW_CLOSED)]
    after = play(RULES, page("r", 100), install("i", 105), retraction("i", 112))
    assert after[-1] == ("r", 0, 0, RETRACTION)
    assert play(RULES, page("r", 100), install("i", 105), FAR, retraction("i", 106))[-1][3] != RETRACTION


def test_a_retraction_that_finds_no_install_is_counted() -> None:
    """Its install was forgotten, or never came: it corrects nothing, and is a stray. One that came first isn't."""
    joiner = Joiner(RULES)
    joiner.feed([page("r", 100), install("i", 105), Tick(121), retraction("i", 121), retraction("never", 121)], 0, NOW)
    joiner.feed([retraction("first", 122), install("first", 121)], 1, NOW)
    assert (joiner.counts.stray, joiner.counts.retracted) == (0, 0)
    again = Joiner(RULES, replace(joiner.restart_point(2), finished_ms=130))
    for one in (joiner, again):
        one.feed([retraction("second", 124), install("second", 125), retraction("third", 124), FAR], 2, NOW)
    assert (joiner.counts.stray, again.counts.stray, joiner.counts.retracted) == (3, 0, 0)


def test_ids_that_run_together_are_told_apart() -> None:
    """User and install id are two: whatever characters they have, one pair is never taken for another."""
    emitted = play(
        RULES, page("r", 100, "a", "u\0x"), page("s", 100, "a"), install("i", 101, "a", "", "u\0x"),
        install("x\0i", 101), install("1 i", 102), page("t", 100, "a", "u1 "), install("i", 102, "a", "", "u1 "),
    )  # fmt: skip
    assert [request_id for request_id, *_ in emitted] == ["r", "s", "t"]


def test_ids_are_told_apart_that_are_users_names() -> None:
    """An install's id may be its user's name, or that of another user who has an id of this one's name."""
    log = [page("r1", 100, "a", "ann"), page("r2", 100, "a", "ben")]
    for own in (True, False):
        ids_of = {"ann": "ann", "ben": "ben"} if own else {"ann": "ben", "ben": "ann"}
        said = play(RULES, *log, *(install(id_, 101, user=user) for user, id_ in ids_of.items()))
        assert said == [("r1", 0, 1, INSTALLED), ("r2", 0, 1, INSTALLED)]


def test_long_ids_are_counted() -> None:
    """Whatever text is long, a join holds no more of it than its memory allows."""
    long, bounded = "x" * 250, replace(RULES, window_ms=10_000, bytes_max=100_000)
    for make in (
        lambda k: install(f"i{k}", 100 + k, long),
        lambda k: install(f"i{k}", 100 + k, "a", long),
        lambda k: install(f"i{k}{long}", 100 + k),
        lambda k: install(f"i{k}", 100 + k, user=f"u{k}{long}"),
        lambda k: page(f"r{k}{long}", 100 + k),
        lambda k: page(f"r{k}", 100 + k, user=f"u{k}{long}"),
    ):
        joiner = Joiner(bounded)
        for k in range(1_000):
            joiner.feed([make(k)], k, NOW)
        assert 50_000 < joiner.state_bytes <= 100_000
        joiner.feed([FAR], 1_000, NOW)
        assert joiner.state_bytes == 0


def test_a_page_can_be_corrected_as_long_as_the_spec_says() -> None:
    """`known` is counted from the window's end: a retraction until then is a correction, after it none."""
    for known, reasons in (("2s", [INSTALLED]), ("1m", [INSTALLED, RETRACTION])):
        rules = label_rules(Spec("x", label=Label(window="1s", known=known)))
        emitted = play(rules, page("r", 100_000, "a"), install("i", 100_500), Tick(103_600), retraction("i", 103_600))
        assert [reason for *_, reason in emitted] == reasons


def test_a_retraction_under_wait_changes_the_label_before_it_is_told() -> None:
    """Under `wait` an install taken back inside the window leaves a plain negative."""
    emitted = play(replace(RULES, policy="wait"), page("r", 100, "a"), install("i", 105), retraction("i", 106), FAR)
    assert emitted == [("r", 0, 0, WINDOW_CLOSED)]


def test_one_of_two_installs_taken_back_changes_nothing() -> None:
    """A label is positive as long as one install is left."""
    emitted = play(RULES, page("r", 100, "a"), install("i", 105), install("j", 106), retraction("i", 107), FAR)
    assert emitted == [("r", 0, 1, INSTALLED)]


def test_a_late_install_corrects_a_page_that_is_still_known() -> None:
    """After the close, within `known`: a late positive; after that: late, counted, dropped."""
    assert play(RULES, page("r", 100, "a"), Tick(112), install("i", 105)) == [
        ("r", 0, 0, WINDOW_CLOSED),
        ("r", 0, 1, LATE_POSITIVE),
    ]
    joiner = Joiner(RULES)
    said = joiner.feed([page("r", 100, "a"), Tick(120), install("i", 105)], 0, NOW + 1)
    assert rows(said) == [("r", 0, 0, WINDOW_CLOSED)]
    assert joiner.counts.late == 1


def test_a_late_page_is_told_at_once_or_counted() -> None:
    """A page whose window is over is closed as it comes, while it could still be known; else it is late."""
    assert play(RULES, Tick(112), page("r", 100, "a")) == [("r", 0, 0, WINDOW_CLOSED)]
    joiner = Joiner(RULES)
    assert joiner.feed([Tick(115), page("r", 100)], 0, NOW + 1) == []
    assert joiner.counts.late == 1


def test_lateness_keeps_windows_open() -> None:
    """The watermark stays `lateness` behind the greatest event time."""
    rules = replace(RULES, lateness_ms=20)
    assert play(rules, page("r", 100), Tick(129)) == []
    assert len(play(rules, page("r", 100), Tick(130))) == 2


def test_an_event_from_the_future_closes_nothing_that_is_open() -> None:
    """Event time goes no further than a record's own arrival: what happens until then finds its page."""
    joiner, wide = Joiner(RULES), Joiner(replace(RULES, lateness_ms=3))
    log: list[SourceEvent] = [page("r", 100, "a"), page("ahead", 160, "z", "v"), page("s", 104, "b"), Tick(99)]
    for one in (joiner, wide):
        assert [one.feed([event], k, 104) for k, event in enumerate(log)] == [[]] * 4
        assert rows(one.feed([install("i", 105), install("j", 106, "b")], 4, 106)) == [
            ("r", 0, 1, INSTALLED), ("s", 0, 1, INSTALLED)
        ]  # fmt: skip
    assert (joiner.watermark_ms, wide.watermark_ms, joiner.counts.late, joiner.open_pages) == (106, 103, 0, 3)
    assert rows(joiner.feed([FAR], 5, 169)) == []
    assert rows(joiner.feed([FAR], 6, 170)) == [("ahead", 0, 0, WINDOW_CLOSED)]


def test_nothing_is_remembered_for_ever() -> None:
    """When the watermark has passed everything, no state is left and nothing holds the commit."""
    joiner = Joiner(RULES)
    joiner.feed([page("r", 100), install("i", 105), install("organic", 105, "z"), retraction("k", 104)], 0, NOW + 1)
    assert joiner.oldest_needed_offset() == 0
    joiner.feed([FAR], 1, NOW + 2)
    assert joiner.oldest_needed_offset() is None
    assert joiner.restart_point(2) == RestartPoint(2, FAR.time_ms, FAR.time_ms - RULES.life_ms)
    assert (joiner.open_pages, joiner.counts.organic) == (0, 1)
    assert joiner.state_bytes == 0


def test_a_million_ticks_hold_nothing() -> None:
    """Records of which nothing is remembered don't pile up behind the commit."""
    joiner = Joiner(RULES)
    for offset in range(1_000):
        joiner.feed([Tick(100 + offset)], offset, NOW)
    assert joiner.oldest_needed_offset() is None


def test_an_install_after_a_retraction_is_a_correction() -> None:
    """Installed, taken back, installed again inside the window: one example, corrected twice."""
    emitted = play(RULES, page("r", 100, "a"), install("i", 105), retraction("i", 106), install("j", 107), FAR)
    assert [reason for *_, reason in emitted] == [INSTALLED, RETRACTION, LATE_POSITIVE]


def test_an_install_without_a_page_is_organic_when_it_is_forgotten() -> None:
    """Emitted then and not before, with the page that it named; not if it was claimed, taken back, or came too late."""
    joiner = Joiner(replace(RULES, organic=True))
    joiner.feed([page("r", 100), install("claimed", 105), install("named", 105, request_id="gone")], 0, NOW + 1)
    joiner.feed([install("back", 105, "z"), retraction("back", 106, "z"), Tick(119)], 1, NOW + 2)
    assert (joiner.organic, joiner.counts.organic) == ([], 0)
    joiner.feed([Tick(120), install("late", 104, "z"), install("named", 105, request_id="gone")], 2, NOW + 3)
    assert joiner.organic == [Organic("u", "a", 105, "named", "gone", NOW + 1)]
    assert (joiner.counts.organic, joiner.counts.late) == (1, 2)
    joiner.feed([FAR], 3, NOW + 4)
    assert joiner.organic == []


def test_organic_installs_are_told_only_where_they_are_wanted() -> None:
    """Without the rule they are counted, and there is nothing to write."""
    joiner = Joiner(RULES)
    joiner.feed([install("i", 105), FAR], 0, NOW + 1)
    assert (joiner.organic, joiner.counts.organic) == ([], 1)


def test_an_install_holds_the_commit_at_the_page_that_has_it() -> None:
    """Only with `organic`: a restart behind the page would find the install without it."""
    log: list[SourceEvent] = [page("r", 100), install("i", 108), other, Tick(115)]
    for organic, offset in ((False, 1), (True, 0)):
        joiner = Joiner(replace(RULES, organic=organic))
        for k, event in enumerate(log):
            joiner.feed([event], k, NOW + k)
        assert joiner.oldest_needed_offset() == offset
        joiner.feed([FAR], 4, NOW + 4)
        assert joiner.oldest_needed_offset() is None


# Each rule of the restart, and what goes wrong without it. `other` only keeps the commit back.
other = page("other", 104, "z", "v")


def restarted(restart_point: RestartPoint, log: Sequence[SourceEvent], before: int) -> list[Examples]:
    """Said up to `before`, then by a joiner that starts at `restart_point`."""
    first, second = Joiner(RULES), Joiner(RULES, restart_point)
    said = [e for k in range(before) for e in first.feed([log[k]], k, NOW + k)]
    return said + [e for k in range(restart_point.offset, len(log)) for e in second.feed([log[k]], k, NOW + k)]


def restart_point_after(log: Sequence[SourceEvent], n: int) -> RestartPoint:
    """The restart point after `n` records."""
    joiner = Joiner(RULES)
    for offset in range(n):
        joiner.feed([log[offset]], offset, NOW + offset)
    return joiner.restart_point(n)


def test_an_install_holds_the_commit_for_a_page_to_come() -> None:
    """An early install stays uncommitted: behind it, its page would be found without it."""
    log: list[SourceEvent] = [install("i", 105), page("r", 100), FAR]
    assert restart_point_after(log, 1).offset == 0
    assert net_of(restarted(restart_point_after(log, 1), log, 1)) == offline(log, RULES)
    assert net_of(restarted(RestartPoint(1, 105, 0), log, 1)) != offline(log, RULES)


def test_a_retraction_holds_the_commit_as_long_as_its_install() -> None:
    """A retraction that came first stays uncommitted: behind it, the install would count."""
    log: list[SourceEvent] = [retraction("i", 106), page("r", 100), install("i", 105), FAR]
    assert net_of(restarted(restart_point_after(log, 1), log, 1)) == offline(log, RULES)
    assert net_of(restarted(RestartPoint(1, 106, 0), log, 1)) != offline(log, RULES)


def test_the_restart_point_carries_the_watermark() -> None:
    """Without the watermark, a re-read takes in what was too late, and labels it differently."""
    log: list[SourceEvent] = [page("r", 100, "a"), install("i", 101), Tick(120), page("r", 100, "a"), FAR]
    stored = restart_point_after(log, 3)
    assert stored == RestartPoint(3, 120, 105)
    assert net_of(restarted(stored, log, 3)) == offline(log, RULES)
    assert net_of(restarted(RestartPoint(3, 0, 0), log, 3)) != offline(log, RULES)
    log = [Tick(112), page("r", 100, "a"), Tick(113), install("i", 105), FAR]
    stored = restart_point_after(log, 2)
    assert stored.watermark_ms == 112
    assert len(ids(restarted(stored, log, 4))) == 2
    log[2] = Tick(104)
    assert len(ids(restarted(replace(stored, watermark_ms=0), log, 4))) == 3


def test_the_restart_point_carries_what_is_finished() -> None:
    """A repeated page behind the commit (its first copy before it) must not be emitted again at a low watermark."""
    log: list[SourceEvent] = [page("r", 100, "a"), install("i", 100), other, page("r", 100, "a"), Tick(115), FAR]
    stored = restart_point_after(log, 5)
    assert (stored.offset, stored.finished_ms) == (2, 100)
    assert net_of(restarted(stored, log, 5)) == offline(log, RULES)
    assert net_of(restarted(replace(stored, finished_ms=0), log, 5)) != offline(log, RULES)


def test_records_joined_in_one_go_are_as_fed_one_by_one() -> None:
    """Labels and organic installs by record, also behind one that isn't plain or is invalid; pages by their offset."""
    rules = replace(RULES, organic=True)
    events: list[SourceEvent] = [
        page("r", 100), page("é", 101), install("i", 103), page("", 104), install("z", 105, "x"), Tick(112), FAR,
    ]  # fmt: skip
    one, other = Joiner(rules), Joiner(rules)
    fed = []
    for offset, event in enumerate(events):
        emitted = one.feed([event], offset, NOW + offset)
        fed.append((emitted, one.organic))
    records = [encode_record([event]) for event in events]
    outputs = other.join_apart(records, range(len(events)), [NOW + offset for offset in range(len(events))])
    pages = {offset: event for offset, event in enumerate(events) if isinstance(event, Impression)}
    assert [([label_page(pages[of.offset], of) for of in found], organic) for found, organic in outputs] == fed
    assert sum(len(emitted) for emitted, _ in fed) > 2
    assert sum(len(organic) for _, organic in fed) == 1
    assert other.counts == one.counts
