"""Off-policy estimators by their definitions, on numbers that can be checked by hand."""

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest

from benchmarks.explore_coverage import World, covered
from stream.runtime.errors import DataError
from stream.tables.dtypes import F64
from thalweg.backtest.off_policy import EstimateOptions, LoggedPages, TargetPages, effective, estimate

DEFAULT, ONE_BY_ONE = EstimateOptions(), EstimateOptions(weighting="independent")
BANDIT = LoggedPages(
    np.array([[1.0], [0], [1], [0]]), np.array([[0.5], [0.5], [0.25], [0.25]]), np.ones((4, 1), np.bool_)
)
TARGET = TargetPages(  # weights: 2, 0, 2, 1
    *np.array([[[1.0], [0], [0.5], [0.25]], [[0.7], [0.3], [0.6], [0.4]], [[0.6], [0.4], [0.5], [0.5]]])
)
TWO_PLACES = LoggedPages(np.array([[1.0, 1], [0, 1]]), np.full((2, 2), 0.25), np.ones((2, 2), np.bool_))
OF_TWO = TargetPages(  # ratios: 2 and 0.5 on the first page, 0.5 and 4 on the second
    *np.array([[[0.5, 0.125], [0.125, 1]], [[0.5, 0.5], [0.25, 0.5]], [[0.5, 0.25], [0.5, 0.25]]])
)


def value(name: str, logged: LoggedPages, target: TargetPages, options: EstimateOptions = DEFAULT) -> float:
    """An estimate without its interval."""
    return estimate(logged, target, options).of(name).value


def test_ips() -> None:
    """IPS: the mean over pages of weight × label, where a weight is the target's probability / the propensity."""
    assert value("ips", BANDIT, TARGET) == pytest.approx((2 * 1 + 0 * 0 + 2 * 1 + 1 * 0) / 4)


def test_snips() -> None:
    """SNIPS: the sum of weight × label / the sum of weights."""
    assert value("snips", BANDIT, TARGET) == pytest.approx((2 + 2) / (2 + 0 + 2 + 1))


def test_doubly_robust() -> None:
    """DR: the mean of what a model expects of the target, and weight × (label − prediction) of what was shown."""
    pages = [0.6 + 2 * (1 - 0.7), 0.4 + 0 * (0 - 0.3), 0.5 + 2 * (1 - 0.6), 0.5 + 1 * (0 - 0.4)]
    assert value("dr", BANDIT, TARGET) == pytest.approx(sum(pages) / 4)


def test_a_deterministic_target_counts_the_pages_that_match() -> None:
    """Where it would show the logged item its weight is 1 / propensity, elsewhere 0: SNIPS is the matches' mean."""
    matches = np.array([[1.0], [0], [1], [1]])
    target = TARGET._replace(chances=matches)
    assert value("ips", BANDIT, target) == pytest.approx((1 / 0.5 + 1 / 0.25) / 4)
    assert value("snips", BANDIT, target) == pytest.approx((2 + 4) / (2 + 4 + 4))


def test_a_place_s_weight_has_those_above_it_in_it() -> None:
    """Cascade: at place k the product of the ratios of places 1 to k; a page earns the sum over its places."""
    first, second = (2 * 1 + 2 * 0.5 * 1), (0.5 * 0 + 0.5 * 4 * 1)
    assert value("ips", TWO_PLACES, OF_TWO) == pytest.approx((first + second) / 2)
    assert value("snips", TWO_PLACES, OF_TWO) == pytest.approx((2 * 1 + 0.5 * 0) / 2.5 + (1 * 1 + 2 * 1) / 3)
    pages = [0.5 + 2 * (1 - 0.5) + 2 * 0.25 + 1 * (1 - 0.5), 0.5 + 0.5 * (0 - 0.25) + 0.5 * 0.25 + 2 * (1 - 0.5)]
    assert value("dr", TWO_PLACES, OF_TWO) == pytest.approx(sum(pages) / 2)


def test_independent_places() -> None:
    """Independent: at each place its own ratio; what stands above it is the log's."""
    assert value("ips", TWO_PLACES, OF_TWO, ONE_BY_ONE) == pytest.approx((2 * 1 + 0.5 * 1 + 0.5 * 0 + 4 * 1) / 2)
    pages = [0.5 + 2 * (1 - 0.5) + 0.25 + 0.5 * (1 - 0.5), 0.5 + 0.5 * (0 - 0.25) + 0.25 + 4 * (1 - 0.5)]
    assert value("dr", TWO_PLACES, OF_TWO, ONE_BY_ONE) == pytest.approx(sum(pages) / 2)


def test_pages_of_different_lengths() -> None:
    """A place that half of the pages have earns half of its SNIPS; what is behind a page's end is nothing."""
    shown = np.array([[True, True], [True, False]])
    short = TWO_PLACES._replace(shown=shown, labels=TWO_PLACES.labels * shown)
    assert value("snips", short, OF_TWO) == pytest.approx(2 / 2.5 + 0.5 * 1)
    assert value("ips", short, OF_TWO) == pytest.approx((2 + 1) / 2)
    assert value("dr", short, OF_TWO) == pytest.approx((0.5 + 1 + 0.5 + 0.5 + 0.5 + 0.5 * (0 - 0.25)) / 2)
    assert value("logged", short, OF_TWO) == 1


def test_clipping() -> None:
    """A weight above the clip counts as the clip; how many there were is said, and the mean weight shows the loss."""
    found = estimate(BANDIT, TARGET, EstimateOptions(clip=1.5))
    assert found.of("ips").value == pytest.approx((1.5 + 1.5) / 4)
    assert found.of("snips").value == pytest.approx((1.5 + 1.5) / (1.5 + 0 + 1.5 + 1))
    assert (found.clipped, found.weight_max, found.of("mean_weight").value) == (2, 1.5, 1.0)
    assert estimate(BANDIT, TARGET, DEFAULT).of("mean_weight").value == pytest.approx(5 / 4)


def test_effective_pages() -> None:
    """(Σ w)² / Σ w²: all of them where weights are equal, one where one has all the weight; the least of all places."""
    assert effective(np.array([[3.0, 5.0, 2.0], [3.0, 0.0, 1.0]])).tolist() == [2, 1, 9 / 5]
    assert estimate(BANDIT, TARGET, DEFAULT).effective_pages == pytest.approx(25 / 9)
    assert estimate(TWO_PLACES, OF_TWO, DEFAULT).effective_pages == pytest.approx(2.5**2 / 4.25)


def pages_of(chances: F64, after: F64) -> Iterator[tuple[int, int, float, float]]:
    """All pages of two of three items, with the probabilities of the first, and of the second after it."""
    for first, second in permutations(range(3), 2):
        yield first, second, chances[first], after[first, second]


def test_estimates_are_unbiased_under_interactions() -> None:
    """Over a log that has each page as often as it is drawn, IPS, SNIPS and DR are what the target earns, whatever the
    model predicts, and though labels depend on the item above; independent places miss it.
    """
    random = np.random.default_rng(0)
    labels, predictions = random.random((2, 3, 3, 2))  # of first item, second item, place
    labels[:, :, 0] = labels[:, :1, 0]  # the first place's doesn't depend on the second's item
    logged, target = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.6, 0.3])
    logged_after, target_after = np.full((3, 3), 0.5), random.random((3, 3))
    np.fill_diagonal(target_after, 0)
    target_after /= target_after.sum(1, keepdims=True)
    truth = sum(p * q * labels[a, b].sum() for a, b, p, q in pages_of(target, target_after))
    log = [(a, b) for a, b, p, q in pages_of(logged, logged_after) for _ in range(round(8 * p * q))]
    first, second = np.array(log).T
    q_first, q_second = predictions[:, 0, 0], predictions[:, :, 1]
    pages = LoggedPages(
        labels[first, second], np.stack([logged[first], logged_after[first, second]], 1), np.ones((8, 2), np.bool_)
    )
    judged = TargetPages(
        np.stack([target[first], target_after[first, second]], 1),
        np.stack([q_first[first], q_second[first, second]], 1),
        np.stack([np.full(8, target @ q_first), (target_after * q_second).sum(1)[first]], 1),
    )
    for name in ("ips", "snips", "dr"):
        assert value(name, pages, judged) == pytest.approx(truth), name
        assert value(name, pages, judged, ONE_BY_ONE) != pytest.approx(truth, rel=1e-3), name


def test_a_log_that_was_not_drawn_is_refused() -> None:
    """Where every item was certain to be shown (`ucb`, or no exploration) nothing can be weighed: why, and a remedy."""
    certain = BANDIT._replace(propensities=np.ones((4, 1)))
    with pytest.raises(DataError, match=r"(?s)without drawing.*ucb.*kind = \"epsilon\""):
        estimate(certain, TARGET, DEFAULT)
    pinned = TWO_PLACES._replace(propensities=np.array([[1.0, 0.5], [1.0, 0.5]]))
    assert estimate(pinned, OF_TWO, DEFAULT).pages == 2, "a pinned place is certain, the other was drawn"


def test_intervals_are_of_pages_and_a_function_of_the_seed() -> None:
    """The same seed gives the same bits; a gain over the log is of pairs: none where the target is the log's policy."""
    world = World(0, pages=300)
    logged, target = world.logged(), world.target()
    first, again, other = (estimate(logged, target, EstimateOptions(seed=seed)) for seed in (0, 0, 1))
    assert first.resampled.tobytes() == again.resampled.tobytes() != other.resampled.tobytes()
    same = estimate(logged, target._replace(chances=logged.propensities), DEFAULT)
    assert same.gain("ips") == same.gain("snips") == (0, 0, 0)
    assert same.of("ips").high > same.of("ips").low


def test_snips_holds_the_truth_as_often_as_it_says() -> None:
    """In 30 simulated logs the 95 % intervals of SNIPS hold the target's true value in at least 26, and the log's own
    earnings, which are no estimate of it, in at most 3.
    """
    found = covered(seeds=30, pages=2_000, resamples=200)
    assert found["snips"] >= 26
    assert found["logged"] <= 3
