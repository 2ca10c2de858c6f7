"""A running test is read from `examples`: who counts, and what is printed."""

import io
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from rich.console import Console

from stream.events.codec import encode_record, example_id
from stream.events.topics import EXAMPLES
from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED, Examples, Impression, Organic
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_log import KafkaLog
from stream.log.memory_log import MemoryLog
from stream.log.protocol import Record
from stream.runtime.errors import DataError, SettingsError
from stream.runtime.settings import Settings
from thalweg.experiment.live import LiveOptions, run_live, watch
from thalweg.experiment.live_counts import LiveCounts
from thalweg.stack.stack import Stack

T = 1_700_000_000_000
ITEMS = ["a", "b", "c"]
Row = tuple[int, int, int, str]  # position, label, reason, install id


def page(number: int, user: str = "u", variant: str = "popular", items: Sequence[str] = ITEMS) -> Impression:
    """A page of three items."""
    return Impression(f"r{number}", T, user, list(items), variant)


def labelled(shown: Impression, *rows: Row) -> Examples:
    """Labels of a page."""
    positions, labels, reasons, installs = (list(column) for column in zip(*rows, strict=True))
    ids = [example_id(shown.request_id, *row) for row in zip(positions, reasons, installs, strict=True)]
    return Examples(shown, ids, positions, labels, [1.0] * len(ids), reasons, [T] * len(ids))


def closed(shown: Impression, *installed: int) -> list[Examples]:
    """All first labels of a page as `eager` emits them: each install at once, the rest when the window closes."""
    rest = [(k, 0, WINDOW_CLOSED, "") for k in range(len(shown.items)) if k not in installed]
    return [labelled(shown, (k, 1, INSTALLED, f"i{k}")) for k in installed] + ([labelled(shown, *rest)] if rest else [])


def counted(*records: Sequence[Examples | Organic], pages_max: int = 100) -> LiveCounts:
    """The counts of these records."""
    counts = LiveCounts(pages_max)
    for offset, events in enumerate(records):
        counts.add(Record(EXAMPLES.name, 0, offset, T, None, encode_record(events)))
    return counts


def totals(counts: LiveCounts) -> dict[str, tuple[int, int, int, float]]:
    """Users, pages, impressions, installs of each arm that has finished pages."""
    return {
        one.arm: (one.users, int(one.pages.sum()), int(one.impressions.sum()), float(one.installs.sum()))
        for one in counts.arms()
        if one.users
    }


def test_users_pages_and_installs_are_counted_by_arm() -> None:
    """A user's pages add up; pages without a variant are an arm of their own; organic installs belong to none."""
    counts = counted(
        closed(page(1, "u"), 0),
        [*closed(page(2, "u"), 0, 2), *closed(page(3, "v"))],
        [*closed(page(4, "w", "wide_deep"), 1), *closed(page(5, "x", ""), 1), Organic("u", "a", T, "o")],
    )
    assert totals(counts) == {"popular": (2, 3, 9, 3), "wide_deep": (1, 1, 3, 1), "(none)": (1, 1, 3, 1)}
    popular = counts.arms()[1]
    assert (popular.pages.tolist(), popular.installs.tolist()) == ([2, 1], [3.0, 0.0])
    assert counts.users_in_several_arms == 0


def test_a_page_counts_once_all_its_items_have_a_first_label() -> None:
    """Positives come first: to count them before the negatives would favour whoever is read last."""
    positive, rest = closed(page(1), 1)
    assert totals(counts := counted([positive])) == {}
    assert counts.unfinished == 1
    assert totals(counts := counted([positive], [rest])) == {"popular": (1, 1, 3, 1)}
    assert counts.unfinished == 0


CORRECTIONS = {
    "late": ((1, 1, LATE_POSITIVE, "i1"),),
    "retracted": ((0, 0, RETRACTION, "i0"),),
    "retracted, then another": ((0, 0, RETRACTION, "i0"), (0, 1, LATE_POSITIVE, "j0")),
}


@pytest.mark.parametrize(("name", "installs"), [("late", 2), ("retracted", 0), ("retracted, then another", 1)])
def test_corrections_change_the_installs(name: str, installs: int) -> None:
    """Before and after the page is finished; repeated in any order they change nothing more."""
    shown = page(1)
    positive, rest = closed(shown, 0)
    corrections = [labelled(shown, row) for row in CORRECTIONS[name]]
    expected = {"popular": (1, 1, 3, installs)}
    assert totals(counted([positive], [rest], corrections)) == expected
    if name != "late":  # an item's first label is emitted before its corrections
        assert totals(counted([positive], corrections, [rest])) == expected
    again = counted([positive], [rest], corrections, [positive, rest], corrections, corrections[:1])
    assert totals(again) == expected
    assert again.duplicates == 3 + len(corrections) + 1


def test_further_items_under_a_request_id_are_a_page_of_their_own() -> None:
    """Infinite scroll."""
    first, more = page(1), page(1, items=["d", "e"])
    assert totals(counted([*closed(first, 0), *closed(more, 1)])) == {"popular": (1, 2, 5, 2)}


def test_a_request_id_may_stand_for_pages_of_several_users_or_arms() -> None:
    """A producer that numbers its pages by user, or repeats a page under another arm: each counts where it belongs."""
    pages = [page(1), page(1, "v"), page(1, "w", "wide"), page(1, "u", "wide")]
    late = [labelled(one, (1, 1, LATE_POSITIVE, f"late{n}")) for n, one in enumerate(pages)]
    counts = counted(*(closed(one, 0) for one in pages), late)
    assert totals(counts) == {"popular": (2, 2, 6, 4), "wide": (2, 2, 6, 4)}
    assert (counts.users_in_several_arms, counts.duplicates) == (1, 0)


def test_corrections_of_pages_that_are_not_remembered_are_left_out() -> None:
    """As many pages as `pages_max` are remembered at least: memory is bounded."""
    retraction = labelled(page(1), (0, 0, RETRACTION, "i0"))
    others = [label for n in range(2, 6) for label in closed(page(n))]
    for pages_max, installs, left_out in ((10, 0, 0), (2, 1, 1)):
        counts = counted(closed(page(1), 0), others, [retraction], pages_max=pages_max)
        assert totals(counts) == {"popular": (1, 5, 15, installs)}
        assert counts.corrections_left_out == left_out


def test_undecodable_events_are_counted() -> None:
    """They cost only themselves."""
    counts = LiveCounts()
    counts.add(Record(EXAMPLES.name, 0, 0, T, None, b"\x91\x01"))
    counts.add(Record(EXAMPLES.name, 0, 1, T, None, encode_record(closed(page(1)))))
    assert counts.unreadable == 1
    assert totals(counts) == {"popular": (1, 1, 3, 0)}


def test_users_of_several_arms_are_counted() -> None:
    """Pages without a variant, as from before the test began, don't matter."""
    pages = (
        page(1, "u"),
        page(2, "u", "wide"),
        page(3, "u", "deep"),
        page(4, "v"),
        page(5, "v", ""),
        page(6, "w", "wide"),
    )
    assert counted([label for shown in pages for label in closed(shown)]).users_in_several_arms == 1


def log_of(*records: Sequence[Examples]) -> MemoryLog:
    """A log whose nth record was appended at second n."""
    clock = itertools.count(T, 1_000)
    log = MemoryLog({EXAMPLES.name: 1}, lambda: next(clock))
    for events in records:
        log.send(EXAMPLES.name, 0, encode_record(events))
    return log


def shop(users: int, rates: dict[str, float], seed: int = 3, pages: int = 10) -> list[list[Examples]]:
    """Pages of users, in turn of these arms, items installed at the arm's rate; a record for each round of pages."""
    rng = np.random.default_rng(seed)
    arms, numbers = list(rates), itertools.count()
    records = []
    for _ in range(pages):
        record: list[Examples] = []
        for user in range(users):
            arm = arms[user % len(arms)]
            installed = np.flatnonzero(rng.random(len(ITEMS)) < rates[arm])
            record += closed(page(next(numbers), f"u{user}", arm), *installed.tolist())
        records.append(record)
    return records


def look(
    log: MemoryLog, options: LiveOptions, sleep: Callable[[float], None] = lambda s: None
) -> tuple[dict[str, float], str]:
    """Figures and text."""
    text = io.StringIO()
    return watch(
        log, options, Console(file=text, width=200, force_terminal=True, color_system=None), sleep
    ), text.getvalue()


def test_a_real_gain_is_reported() -> None:
    """Rates, gain, interval and p; the same in figures and table."""
    found, text = look(log_of(*shop(400, {"popular": 0.1, "wide_deep": 0.2, "random": 0.1})), LiveOptions())
    assert found["wide_deep.installs_per_1000"] == pytest.approx(200, rel=0.1)
    assert found["popular.installs_per_1000"] == 1000 * found["popular.installs"] / found["popular.impressions"]
    assert 0 < found["wide_deep.gain_low"] < found["wide_deep.gain"] < found["wide_deep.gain_high"]
    assert found["random.gain_low"] < 0 < found["random.gain_high"]
    assert found["wide_deep.p"] < 0.001 < 0.05 < found["random.p"]
    assert found["wide_deep.difference_per_1000"] == pytest.approx(100, rel=0.2)
    assert found["sample_ratio_p"] > 0.9
    assert "popular.gain" not in found
    lines = [line for line in text.splitlines() if "│" in line]
    assert [line.split()[1] for line in lines] == ["popular", "random", "wide_deep"]
    assert f"{found['wide_deep.gain']:+.1%}" in lines[2]
    assert "< 0.001" in lines[2]
    assert "sample ratio as declared" in text


def test_an_arm_that_loses_users_is_a_mismatch() -> None:
    """Equal shares are assumed unless others are declared."""
    records = shop(900, {"popular": 0.1, "wide": 0.1, "same": 0.1}, pages=1)
    log = log_of([one for one in records[0] if one.page.variant != "same"])
    _, text = look(log, LiveOptions())
    assert "SAMPLE RATIO MISMATCH" not in text
    assert "equal ones are assumed" in text
    found, text = look(log, LiveOptions(shares={"popular": 1, "wide": 2}))
    assert "equal ones are assumed" not in text
    assert "SAMPLE RATIO MISMATCH" in text
    assert found["sample_ratio_p"] < 0.001
    with pytest.raises(SettingsError):
        look(log, LiveOptions(shares={"popular": -1}))


def test_few_users_conclude_nothing() -> None:
    """The figures leave out what isn't known, so that they are JSON."""
    found, text = look(log_of(*shop(20, {"popular": 0.5, "wide": 0.5})), LiveOptions())
    assert found["wide.p"] == 1
    assert "wide.gain_high" not in found
    assert "nothing to conclude yet" in text


def test_only_labels_since_a_time_count() -> None:
    """By append time."""
    log = log_of(*shop(40, {"popular": 0.5, "wide": 0.5}, pages=5))
    found, _ = look(log, LiveOptions(since_ms=T + 3_000))
    assert found["popular.pages"] == 2 * 20


def test_looks_are_repeated_until_interrupted() -> None:
    """Each reads on from where the last ended; p never rises; the last figures are returned."""
    records = shop(400, {"popular": 0.1, "wide": 0.2}, pages=10)
    records += shop(400, {"popular": 0.9, "wide": 0.0}, pages=10)  # the request ids of the first: duplicates
    fall = shop(4_000, {"popular": 0.3, "wide": 0.0}, pages=3)
    log, sent = log_of(*records[:5]), [records[5:10], records[10:], [], fall]
    pages: list[str] = []

    def sleep(seconds: float) -> None:
        assert seconds == 5
        if not sent:
            raise KeyboardInterrupt
        for events in sent.pop(0):
            log.send(EXAMPLES.name, 0, encode_record(events))

    found, text = look(log, LiveOptions(every_s=5), sleep)
    rows = [line.split("│") for line in text.splitlines() if "│ wide " in line]
    pages = [row[3].strip() for row in rows]
    assert pages[:4] == ["1,000", "2,000", "2,000", "2,000"]
    assert len(pages) == 5
    assert found["wide.pages"] == int(pages[-1].replace(",", ""))


def test_a_control_that_does_not_occur_is_named() -> None:
    """With the arms that there are."""
    with pytest.raises(DataError, match=r"no page is of the control arm 'ctrl': .* there are popular, wide"):
        look(log_of(*shop(4, {"popular": 0.5, "wide": 0.5})), LiveOptions(control="ctrl"))


def test_an_empty_log_says_so() -> None:
    """With what it waits for."""
    with pytest.raises(DataError, match=r"no page in `examples` has a label for each item yet \(1 wait for some\)"):
        look(log_of(closed(page(1), 0)[:1]), LiveOptions())


def test_a_log_on_kafka_gives_the_same_figures(stack: Stack, topic_prefix: str) -> None:
    """Duplicates included; a time at which nothing has been appended yet leaves nothing to compare."""
    settings = Settings(kafka=stack.kafka, topic_prefix=topic_prefix)
    apply_topics(settings, plan_topics(settings))
    records = shop(100, {"popular": 0.1, "wide": 0.2}, pages=3)
    log = KafkaLog(settings)
    for events in [*records, records[1]]:
        log.send(EXAMPLES.name, 0, encode_record(events))
    log.close()
    console = Console(file=io.StringIO())
    found = run_live(settings, LiveOptions(), console)
    assert found == look(log_of(*records, records[1]), LiveOptions())[0]
    assert found["wide.pages"] == 150
    assert found["duplicates"] == 100 * len(ITEMS)
    with pytest.raises(DataError, match="no page in `examples`"):
        run_live(settings, LiveOptions(since_ms=2 * T), console)
