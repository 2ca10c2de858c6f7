"""One row of the drift detector: how the model does beside a constant, in blocks, and the CUSUM of it."""

from typing import Any, Final

import numpy as np

from learner.training.negative_sampling import Multiplicities
from stream.tables.dtypes import F32, F64, Bools
from stream.tables.jit import kernel

# columns of a row
POSITIVES, LABELS = 0, 1  # recent labels, exponentially weighted: the recent rate is their ratio
RARE, COUNT, EXCESS = 2, 3, 4  # of the block: labels of the rarer kind, all labels, log loss beyond the constant's
BLOCKS = 5  # since the reference began
MEAN, VARIANCE = 6, 7  # the reference: of blocks' excess
NEWEST = 8  # the newest block's excess
CUSUM = 9  # in standard deviations of a block
ALARMS = 10  # ever
SINCE = 11  # blocks since an alarm that isn't over, + 1; 0: there is none
CALM = 12  # blocks in succession that are as good as the reference, while there is one
SEASON, SEASON_BLOCKS = 13, 37  # of each hour of the day: usual excess beyond MEAN, and blocks that it is of
FIELDS: Final = 61

HOUR_MS: Final = 3_600_000.0
HOURS: Final = 24

BLOCK: Final = 50.0  # labels of the rarer kind
RATE_LABELS: Final = 100.0  # of the rarer kind, that the recent rate is of
FIRST: Final = 4.0  # blocks that only move the recent rate
WARM_UP: Final = 24.0  # blocks until alarms are raised
REFERENCE: Final = 100.0  # blocks that the reference is of, exponentially weighted; as many of each hour
SHRINKS: Final = 2.0  # blocks by which an hour's excess is shrunk to 0
SLACK: Final = 0.5  # standard deviations
Z_MAX: Final = 6.0  # one block alone raises no alarm
DEVIATION_MIN: Final = 0.005  # of a block's excess: less isn't worth an alarm
CALM_MAX: Final = 1.0  # standard deviations above the reference of a block that is as good
CALM_BLOCKS: Final = 3.0  # that end an alarm
ALARM_BLOCKS: Final = 40.0  # after so many an alarm ends anyway, and what is now becomes the reference
_RATE_MIN: Final = 1e-6
_P_MIN: Final = 1e-7


@kernel
def add_examples(
    rows: F64, predictions: F32, labels: F32, times_ms: F64, counts: Multiplicities, members: Bools, bound: float,
    first: int, alarmed: Bools,
) -> Any:  # fmt: skip
    """Add predictions[first:] to each row's detector, but no more once there is an alarm; returns where it stopped.

    `rows` float64 [1 + S, FIELDS]: of all, then of slices, as far as they are watched; `alarmed` bool [1 + S]: written.
    """
    for i in range(first, predictions.shape[0]):
        now, earlier, p = np.float64(counts.now[i]), np.float64(counts.earlier[i]), np.float64(predictions[i])
        if p != p or (now == 0.0 and earlier == 0.0):
            continue
        hour, is_alarm = int(times_ms[i] // HOUR_MS) % HOURS, False
        for s in range(rows.shape[0]):
            alarmed[s] = (s == 0 or members[i, s - 1]) and _add(
                rows[s], p, labels[i] > 0.5, now, earlier, hour, bound
            )  # fmt: skip
            is_alarm |= alarmed[s]
        if is_alarm:
            return i + 1
    return predictions.shape[0]


@kernel
def _add(row: F64, p: float, is_positive: bool, now: float, earlier: float, hour: int, bound: float) -> bool:
    """One label into a row. Returns whether an alarm begins with it."""
    rate = _clip((row[POSITIVES] + 0.5) / (row[LABELS] + 1.0), _RATE_MIN)
    p = _clip(p, _P_MIN)
    positive, negative = np.log(rate / p), np.log((1.0 - rate) / (1.0 - p))  # what each label costs beyond the constant
    is_rare = is_positive == (rate < 0.5)
    rare = now if is_rare else -earlier  # the label that a correction takes back is the other one
    if is_positive:
        row[EXCESS] += now * positive - earlier * negative
    else:
        row[EXCESS] += now * negative - earlier * positive
    row[RARE] += rare
    row[COUNT] += now - earlier
    if rare > 0.0:
        kept = max(0.0, 1.0 - rare / RATE_LABELS)
        row[POSITIVES] *= kept
        row[LABELS] *= kept
    row[POSITIVES] = max(0.0, row[POSITIVES] + (now if is_positive else -earlier))
    row[LABELS] = max(row[POSITIVES], row[LABELS] + now - earlier)
    if row[RARE] < BLOCK or row[COUNT] <= 0.0:
        return False
    entropy = -rate * np.log(rate) - (1.0 - rate) * np.log(1.0 - rate)
    excess = row[EXCESS] / (row[COUNT] * entropy)
    row[RARE] = row[COUNT] = row[EXCESS] = 0.0
    return _end_block(row, excess, hour, bound)


@kernel
def _end_block(row: F64, excess: float, hour: int, bound: float) -> bool:
    row[NEWEST] = excess
    row[BLOCKS] += 1.0
    if row[BLOCKS] <= FIRST:
        row[MEAN] = excess
        return False
    deviation = max(DEVIATION_MIN, np.sqrt(row[VARIANCE]))
    z = (excess - row[MEAN] - row[SEASON + hour]) / deviation
    if row[BLOCKS] > WARM_UP:
        z = min(Z_MAX, max(-Z_MAX, z))
        row[CUSUM] = max(0.0, row[CUSUM] + z - SLACK)
    if row[SINCE] > 0.0:
        _go_on(row, z)
        return False
    _move_reference(row, z * deviation, hour)
    if row[CUSUM] < bound:
        return False
    row[ALARMS] += 1.0
    row[SINCE], row[CALM] = 1.0, 0.0
    return True


@kernel
def _move_reference(row: F64, beyond: float, hour: int) -> None:
    """By a block that was so far beyond it."""
    share = 1.0 / min(REFERENCE, row[BLOCKS] - FIRST)
    row[MEAN] += share * beyond
    row[VARIANCE] += share * ((1.0 - share) * beyond * beyond - row[VARIANCE])
    if row[BLOCKS] > WARM_UP:
        row[SEASON + hour] += beyond / (row[SEASON_BLOCKS + hour] + SHRINKS)
        row[SEASON_BLOCKS + hour] = min(REFERENCE, row[SEASON_BLOCKS + hour] + 1.0)


@kernel
def _go_on(row: F64, z: float) -> None:
    """Another block after an alarm: it ends when the model is as good as before, or has long been as it is."""
    row[SINCE] += 1.0
    row[CALM] = row[CALM] + 1.0 if z <= CALM_MAX else 0.0
    if row[CALM] >= CALM_BLOCKS:
        row[SINCE] = row[CALM] = row[CUSUM] = 0.0
    elif row[SINCE] > ALARM_BLOCKS:
        begin_anew(row)


@kernel
def begin_anew(row: F64) -> None:
    """A new reference; the recent rate stays, and what is usual of each hour."""
    row[RARE] = row[COUNT] = row[EXCESS] = 0.0
    row[BLOCKS] = row[MEAN] = row[VARIANCE] = row[CUSUM] = row[SINCE] = row[CALM] = 0.0


@kernel
def _clip(p: float, least: float) -> float:
    return min(1.0 - least, max(least, p))
