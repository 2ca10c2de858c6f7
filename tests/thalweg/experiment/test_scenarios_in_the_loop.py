"""Scenarios in the closed loop, by name: what they do to labels, features and the model that learns from them."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from msgspec import structs

from producers.store.parameters import DAY_MS, HOUR_MS
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import WINDOW_CLOSED, Install
from stream.features.page_features import Layout, words_of
from stream.features.page_kernels import open_page
from stream.spec.columns import Cross
from stream.tables.dtypes import F64, Bools
from tests.support.closed_loops import SPEC, Ran, loop_of, run
from tests.support.join_oracle import net_of
from tests.support.store_worlds import DAY, changed

# Few users who come often and want what their segment wants: a wide part knows them within a day of 600 pages.
PLAIN = changed(
    base_rate=0.1,
    users={"count": 100, "activity_sigma": 0.0, "new_a_day": 0.0, "leaving_a_day": 0.0},
    apps={"count": 600},
    pairs={"sources": 0},
    page={"popular": 20, "new": 5, "random": 25},
    tastes={
        "segment": 2.0, "latent": 0.0, "quality": 0.2, "hour": 0.0, "device": 0.0, "price": 0.0, "novelty": 0.0,
        "intercept": 0.0,
    },
    traffic={"pages_a_day": 600},
)  # fmt: skip
SYNC_MS = 4_000  # an hour of the store's time, nearly
# Rates that learn a flip within a day, whatever the experiment's arms run on: those are another spec's.
CROSSES: list[list[str] | Cross] = [cross.of for cross in SPEC.crosses()[len(SPEC.wide.features) :]]
QUICK = structs.replace(SPEC, name="quick", wide=structs.replace(SPEC.wide, alpha=0.43, l1=0.1, crosses=CROSSES))


def played(name: str, pages: int) -> Ran:
    """A wide model serves everyone while this happens, until every page has closed."""
    return run(
        loop_of(["wide"], parameters=PLAIN, scenarios=[name], sync_ms=SYNC_MS, spec=QUICK), pages, to_the_end=True
    )


def days(ran: Ran) -> F64:
    """Days of the store's time at which pages were shown."""
    return np.concatenate([shown.pages.world_ms for shown in ran.shown]) / DAY_MS


def ids(ran: Ran) -> list[str]:
    """Request ids of the pages."""
    return [shown.pages.request_id(b) for shown in ran.shown for b in range(len(shown.arms))]


def net_labels(ran: Ran) -> Bools:
    """[pages, 10] the labels that the learner got last."""
    net, pages = net_of(examples for record in ran.examples for examples in record), ran.pages
    return np.array([[net[name, item] for item in pages[name].items] for name in ids(ran)], bool)


def check_nothing_is_lost(ran: Ran) -> None:
    """Each page that was shown is learned, each item of it once, corrections apart."""
    first = Counter(
        (examples.page.request_id, position)
        for record in ran.examples
        for examples in record
        for position, reason in zip(examples.positions, examples.reasons, strict=True)
        if reason == WINDOW_CLOSED
    )
    assert first == Counter({(name, position): 1 for name in ids(ran) for position in range(10)})
    model = ran.loop.served["wide"].model
    emitted = [example for record in ran.examples for examples in record for example in examples.ids]
    assert model.examples == len(emitted) == len(set(emitted))
    assert (model.rejected, model.duplicates) == ([], 0)
    assert ran.loop.front.failed == []


def test_a_flip_costs_what_was_learned_and_is_learned_in_turn() -> None:
    """Gap closed: most of what a day had gained is gone with the flip, and comes back in part within a day."""
    ran = played("flip", 1_350)
    traffic, when = ran.traffic, days(ran)

    def gap_closed(since: float, until: float) -> float:
        chosen = (when >= since) & (when < until)
        gained = traffic.expected[chosen] - traffic.popular[chosen]
        return float(gained.sum() / (traffic.oracle[chosen] - traffic.popular[chosen]).sum())

    before, after, later = gap_closed(0.5, 1.0), gap_closed(1.0, 1.4), gap_closed(1.75, 2.25)
    assert before > 0.35
    assert after < before - 0.3
    assert later > after + 0.2


def test_flipped_labels_are_learned_though_the_truth_is_another() -> None:
    """In the span the log says installed of what wasn't, and the reverse; users' own installs go on as before."""
    ran = played("flipped_labels", 1_000)
    when, net = days(ran), net_labels(ran)
    installed = np.concatenate([shown.outcomes.installed for shown in ran.shown])
    span = (when >= 1.0) & (when < 1.6)
    assert min(span.sum(), (when >= 1.6).sum()) > 30
    for inside, reported in ((span, ~installed), (~span, installed)):
        assert net[inside][reported[inside]].mean() > 0.85, "some come too late, or are retracted"
        assert net[inside][~reported[inside]].mean() < 0.05
    assert ran.traffic.labels[span].mean() == pytest.approx(ran.traffic.labels[when < 1.0].mean(), rel=0.4)
    check_nothing_is_lost(ran)


def test_bots_labels_are_all_positive() -> None:
    """About a tenth of the users, in the span only: their labels are positive; their true ones are as others'."""
    ran = played("bots", 1_000)
    when, net, labels = days(ran), net_labels(ran), ran.traffic.labels
    by_user: defaultdict[int, list[int]] = defaultdict(list)
    for n in np.flatnonzero(when >= 1.0).tolist():
        by_user[int(ran.traffic.user[n])].append(n)
    rates = {user: (net[pages].mean(), labels[pages].mean()) for user, pages in by_user.items() if len(pages) > 2}
    bots = {user for user, (reported, _) in rates.items() if reported > 0.75}
    assert 3 <= len(bots) <= 20
    assert max(reported for user, (reported, _) in rates.items() if user not in bots) < 0.6
    assert np.mean([true for user, (_, true) in rates.items() if user in bots]) < 0.35
    early = np.isin(ran.traffic.user, list(bots)) & (when < 1.0)
    assert net[early].mean() < 0.35
    check_nothing_is_lost(ran)


def test_a_vanished_column_is_missing_in_features() -> None:
    """From the full hour on no item has a category; the model goes on without it."""
    ran = played("vanishing_column", 800)
    when, layout = days(ran), Layout(ran.loop.spec)
    missing = np.array([_lengths(ran.pages[name].features, layout, "item.category") == [0] * 10 for name in ids(ran)])
    tagged = np.array([_lengths(ran.pages[name].features, layout, "item.tags") for name in ids(ran)]) > 0
    assert not missing[when < 1.0].any()
    late = when > 1.0 + 0.5 / 24  # a batch of pages is asked for at the full hour, before the items are sent
    assert late.sum() > 100
    assert missing[late].all()
    assert tagged[ran.traffic.items < PLAIN.apps.count].all(), "others are there, but for apps that are just coming"
    assert np.isfinite(ran.traffic.predictions["wide"]).all()
    assert np.ptp(ran.traffic.predictions["wide"][late], axis=1).mean() > 0.01
    check_nothing_is_lost(ran)


def _lengths(raw: bytes, layout: Layout, column: str) -> list[int]:
    """How many ids each item has in a column."""
    page, width = open_page(words_of(raw, layout, 10), layout.size_array), len(layout.item_lists)
    first = page.at.item_offsets + layout.item_lists.index(column)
    return [int(page.w32[first + k * width + 1] - page.w32[first + k * width]) for k in range(10)]


@pytest.mark.parametrize(("name", "hours"), [("outage", 2.4), ("pause", 12)])
def test_nothing_is_lost_where_nothing_is_asked(name: str, hours: float) -> None:
    """In the span there is no page, after it there are; what happened before or meanwhile is learned once."""
    ran = played(name, 750)
    hour = 24 * days(ran)
    assert not ((hour >= 24) & (hour < 24 + hours)).any()
    assert min((hour < 24).sum(), (hour > 24 + hours).sum()) > 50
    begin_ms = ran.loop.world.start_ms + DAY
    end_ms = begin_ms + round(hours * HOUR_MS / PLAIN.compress)
    sent_ms = np.array([one.time_ms for one in ran.records[EVENTS.name]])
    during = ((sent_ms > begin_ms) & (sent_ms < end_ms)).sum()
    assert during == 0 if name == "outage" else during > 5
    installed = np.concatenate([shown.outcomes.installed for shown in ran.shown])
    made = {f"{page}-{place}" for page, row in zip(ids(ran), installed, strict=True) for place in np.flatnonzero(row)}
    reported = {event.install_id for event in ran.events if isinstance(event, Install)}
    assert made == {install_id for install_id in reported if not install_id.startswith("past-")}
    check_nothing_is_lost(ran)


def test_a_ramp_is_served_and_learned() -> None:
    """Ten times the pages in four hours: each is answered, and learned once."""
    ran = played("ramp", 1_000)
    hour = 24 * days(ran)
    usual, many = ((hour < 4).sum(), ((hour >= 24) & (hour < 28)).sum())
    assert 5 * usual < many < 20 * usual
    assert len(ran.records[EXAMPLES.name]) > 0
    check_nothing_is_lost(ran)
