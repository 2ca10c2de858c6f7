"""The world of the benchmark `delays`: its traffic, and what the oracle sees of it."""

import numpy as np
import pytest

from benchmarks.delays import ITEMS, ORACLE, WINDOW_S, delays_s, events, shares_within, spec_of, traffic, traffic_at
from producers.store.parameters import START_MS
from producers.store.scenario import load_scenario
from stream.events.types import Impression, Install


def test_nobody_asks_in_a_pause_and_ten_times_as_many_on_a_ramp() -> None:
    """Scenarios begin after the store's first day, which takes 100 s."""
    ordinary = traffic_at(load_scenario([]), np.array([99.0, 101.0, 170.0]))
    assert traffic_at(load_scenario(["pause"]), np.array([99.0, 101.0, 170.0])) == pytest.approx(ordinary * [1, 0, 1])
    assert traffic_at(load_scenario(["ramp"]), np.array([99.0, 101.0, 170.0])) == pytest.approx(ordinary * [1, 10, 1])


def test_delays_are_the_store_s() -> None:
    """29 % of the installs within a minute of the store, 93 % within the window."""
    assert shares_within(np.array([60 / 864, WINDOW_S])) == pytest.approx([0.29, 0.93], abs=0.001)
    assert shares_within(delays_s(np.array([0.1, 0.5, 0.9]))) == pytest.approx([0.1, 0.5, 0.9])


def test_the_oracle_sees_the_same_pages_and_installs_at_once() -> None:
    """Only the times of installs differ; all of them lie within the window."""
    of = traffic(load_scenario(["pause"]), 0.05, 5.0, 120.0, seed=3)
    late, at_once = ([*events(of, at_once=one)] for one in (False, True))
    shown = {one.request_id: one.time_ms for one in late if isinstance(one, Impression)}
    assert len(shown) * ITEMS == of.installed.size
    for found, longest_ms in (late, 1_000 * WINDOW_S), (at_once, 2):
        waits = [one.time_ms - shown[one.request_id] for one in found if isinstance(one, Install)]
        assert len(waits) == of.installed.sum() > 100
        assert 1 <= min(waits) <= max(waits) < longest_ms
    assert min(shown.values()) >= START_MS
    assert spec_of(ORACLE).label.window == "2ms"
