"""A retrain that has to wait for its examples."""

from pathlib import Path

import numpy as np
import pytest

from learner.retraining.retrain_process import BATCH_S, NOTICE_S, RetrainJob
from tests.support.retrain_house import CUT, House


def test_a_retrain_without_examples_says_once_a_minute_that_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on once they come."""
    monkeypatch.setattr("learner.retraining.retrain_process.POLL_S", 0.0)
    house = House.begun(tmp_path, CUT + 3)
    checkpoint = house.files.newest()
    assert checkpoint is not None
    now_s, notices = [0.0], list[tuple[float, str]]()

    def clock_s() -> float:
        now_s[0] += NOTICE_S / 4
        return now_s[0]

    def notify(line: str) -> None:
        if "no record came" in line:
            notices.append((now_s[0], line))
        if len(notices) == 3:
            house.grow(CUT + 3)

    retraining, offset = RetrainJob(house.log, checkpoint, None, None, notify).run(lambda: True, clock_s)
    assert retraining.is_judged
    assert offset == 100
    assert all("27 examples of 150 judged" in line for _, line in notices), notices
    times_s = [at for at, _ in notices]
    assert np.diff(times_s).tolist() == [1.25 * NOTICE_S] * 2, "a look takes a quarter, and so does the line"


def test_a_few_records_wait_for_no_thousand(tmp_path: Path) -> None:
    """Where some come before each poll ends, they are learned after a second all the same."""
    house = House.begun(tmp_path, CUT)
    checkpoint = house.files.newest()
    assert checkpoint is not None
    now_s, grown = [0.0], [CUT]

    def one_more() -> bool:
        now_s[0] += BATCH_S / 4
        house.grow(grown[0], grown[0] + 1)
        grown[0] += 1
        return True

    retraining, offset = RetrainJob(house.log, checkpoint, None, None, lambda _: None).run(one_more, lambda: now_s[0])
    assert retraining.is_judged
    assert offset == grown[0]
    assert CUT + 150 / 9 <= offset <= CUT + 150 / 9 + 5, "records of nine examples, four of them a second"
