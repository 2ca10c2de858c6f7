"""A dense layer's kernels against plain loops, to the bit; the tower's parameters as checkpoints have them."""

import numpy as np
import pytest

from learner.deep.dense_layer import (
    EPSILON,
    GROUPS,
    LINE,
    AdaGrad,
    activate,
    input_gradient,
    live_units,
    step_units,
)
from learner.deep.tower import Tower, zeros
from stream.tables.dtypes import F32, I64

SHAPES = [(1, 16, 16), (2, 48, 16), (3, 16, 48), (5, 32, 32), (8, 64, 32), (9, 32, 16), (20, 48, 32)]  # rows, in, out


def some(random: np.random.Generator, *shape: int) -> F32:
    """Normal numbers from the start of a cache line."""
    values: F32 = zeros(int(np.prod(shape))).reshape(shape)
    values[:] = random.normal(size=shape)
    return values


def half_dead(random: np.random.Generator, rows: int, units: int) -> F32:
    """A gradient where a third of the units are dead in every row, and others in some."""
    d = some(random, rows, units)
    d[:, random.random(units) < 1 / 3] = 0.0
    d[random.random(d.shape) < 1 / 3] = 0.0
    return d


def listed(d: F32) -> tuple[F32, I64, I64]:
    """`live_units` of a gradient: their columns, the units, and where groups end."""
    units, ends = np.empty(d.shape[1] + 1, np.int64), np.zeros(GROUPS + 1, np.int64)
    columns = live_units(d, units, ends)
    return columns, units[: len(columns)], ends


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_activations_are_summed_from_the_first_input_to_the_last(rows: int, inputs: int, outputs: int) -> None:
    """max(0, bias + x₀w₀ + x₁w₁ + …), each product and each sum rounded."""
    random = np.random.default_rng(rows)
    x, weight, bias, out = (
        some(random, *shape) for shape in ((rows, inputs), (outputs, inputs), (outputs,), (rows, outputs))
    )
    activate(x, weight, bias, out)
    expected = np.tile(bias, (rows, 1))
    for i in range(inputs):
        expected += x[:, i : i + 1] * weight[:, i]
    np.testing.assert_array_equal(out, np.maximum(expected, np.float32(0)))


def test_what_is_no_number_stays_visible() -> None:
    """ReLU doesn't turn NaN into 0."""
    random = np.random.default_rng(0)
    x, out = some(random, 2, 16), zeros(32).reshape(2, 16)
    x[1, 3] = np.nan
    activate(x, some(random, 16, 16), zeros(16), out)
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()
    assert len(listed(out)[1]) == 16


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_live_units_come_group_by_group(rows: int, inputs: int, outputs: int) -> None:
    """Each unit with a gradient once, with its column: first those of group 0, in order, then those of group 1."""
    d = half_dead(np.random.default_rng(outputs + rows), rows, outputs)
    columns, units, ends = listed(d)
    alive = np.flatnonzero((d != 0).any(0))
    assert len(alive) < outputs
    assert units.tolist() == sorted(alive.tolist(), key=lambda o: (o % GROUPS, o))
    np.testing.assert_array_equal(columns, d[:, units].T)
    for group in range(GROUPS):
        assert (units[ends[group] : ends[group + 1]] % GROUPS == group).all()


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_the_gradient_of_the_input_is_summed_in_groups(rows: int, inputs: int, outputs: int) -> None:
    """Fused products within each group over all its units, dead or not; then ((0+4)+(2+6)) + ((1+5)+(3+7))."""
    random = np.random.default_rng(inputs + rows)
    d, weight, out = half_dead(random, rows, outputs), some(random, outputs, inputs), some(random, rows, inputs)
    input_gradient(*listed(d), weight, inputs, out)
    sums = np.zeros((GROUPS, rows, inputs), np.float32)
    for o in range(outputs):
        exact = d[:, o : o + 1].astype(np.float64) * weight[o]
        sums[o % GROUPS] = (exact + sums[o % GROUPS]).astype(np.float32)
    while len(sums) > 1:
        sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
    np.testing.assert_array_equal(out, sums[0])


def test_the_gradient_is_computed_as_far_as_it_is_asked_for() -> None:
    """Inputs that need no gradient cost nothing: only whole registers up to `width` are written."""
    random = np.random.default_rng(1)
    d, weight, out = some(random, 2, 16), some(random, 16, 48), np.full((2, 48), np.nan, np.float32)
    input_gradient(*listed(d), weight, 5, out)
    assert np.isfinite(out[:, :5]).all()
    assert np.isnan(out[:, LINE:]).all()


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_a_step_without_dead_units_is_a_step_with_all(rows: int, inputs: int, outputs: int) -> None:
    """AdaGrad over every unit, each gradient summed from the first row to the last, gives the same bits."""
    random = np.random.default_rng(rows * inputs)
    d, x, weight = half_dead(random, rows, outputs), some(random, rows, inputs), some(random, outputs, inputs)
    x[:, ::5] = 0.0
    squares, rate = np.square(some(random, outputs, inputs)), np.float32(0.05)
    squares[:, ::10] = 0.0
    expected_weight, expected_squares = weight.copy(), squares.copy()
    gradient = np.zeros((outputs, inputs), np.float32)
    for r in range(rows):
        gradient += d[r][:, None] * x[r]
    expected_squares += gradient * gradient
    expected_weight -= rate * gradient / (np.sqrt(expected_squares) + EPSILON)
    columns, units, _ = listed(d)
    step_units(columns, units, x, weight, squares, AdaGrad(rate, np.float32(0), EPSILON))
    assert squares.tobytes() == expected_squares.tobytes()
    assert weight.tobytes() == expected_weight.tobytes()


def test_parameters_are_packed_as_checkpoints_have_them() -> None:
    """Layer by layer, weight [in, out] then bias, widths rounded up to 4, then 16; what is restored is what was."""
    tower = Tower([6, 20, 9], 4, 0.1, seed=3)
    for n, (weight, bias) in enumerate(tower.layers(), 1):
        weight[:], bias[:] = np.arange(weight.size).reshape(weight.shape) + 1_000 * n, -n
    flat = tower.flat
    assert len(flat) == (8 + 1) * 32 + (32 + 1) * 16 + 16 + 1
    first, bias = flat[: 8 * 32].reshape(8, 32), flat[8 * 32 : 9 * 32]
    np.testing.assert_array_equal(first[:6, :20], tower.layers()[0][0])
    assert not first[6:].any()
    assert not first[:, 20:].any()
    assert bias.tolist() == [-1.0] * 20 + [0.0] * 12
    assert flat[-17:].tolist() == [3_000.0 + i for i in range(9)] + [0.0] * 7 + [-3.0]
    other = Tower([6, 20, 9], 4, 0.1, seed=4)
    other.restore(flat, 2 * flat)
    assert other.state.weights.tobytes() == tower.state.weights.tobytes()
    np.testing.assert_array_equal(other.squares, 2 * flat)
    for ours, packed in zip(other.layers(), tower.layers(flat), strict=True):
        np.testing.assert_array_equal(ours[0], packed[0])
        np.testing.assert_array_equal(ours[1], packed[1])


def test_parameters_of_other_widths_are_refused() -> None:
    """Nothing is guessed from an array of another length."""
    tower, flat = Tower([6, 20], 4, 0.1, seed=3), Tower([6, 40], 4, 0.1, seed=3).flat
    with pytest.raises(ValueError, match="dense parameters of shape"):
        tower.restore(flat, flat)
