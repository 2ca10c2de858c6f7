"""Faults that are planted into a course, and what the gate's steps say of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.rare_world import EVERY_S, Course
from learner.training.model import Model
from learner.wide.ftrl import Ftrl
from stream.tables.dtypes import F32, I64, Bools

MINUTE: Final = round(60 / EVERY_S)  # versions
STEPS: Final = 20  # of slow poisoning
BOTS: Final = 10  # one user in so many


@dataclass(frozen=True)
class Fault:
    """`plant` at once; then `each` before each version, `versions` of them. `learns`: whether learning goes on."""

    name: str
    plant: Callable[[Course], None] = lambda course: None
    each: Callable[[Course, int], None] = lambda course, n: None
    versions: int = 1

    @property
    def learns(self) -> bool:
        """Whether the model goes on learning under it."""
        return self.versions > 1


def make_nan(course: Course) -> None:
    """One weight of the tower, or that of the wide bias, is no number."""
    model = course.model
    if course.random.random() < 0.5:
        scale_wide(model, math.nan, bias=True)
    else:
        _layers(model)[0][0][0, 0] = math.nan


def scale(model: Model, factor: float) -> None:
    """All log-odds but the biases are so many times what they were."""
    scale_wide(model, factor)
    _layers(model)[-1][0][:] *= factor


def shift(model: Model, log_odds: float) -> None:
    """All log-odds move by this."""
    _layers(model)[-1][1][:] += log_odds


def scale_wide(model: Model, factor: float, *, bias: bool = False) -> None:
    """Multiply the wide weights; or that of the bias alone."""
    rows = model.wide.table.rows()
    rows = rows[(rows[:, 0] == np.uint64(model.encoder.bias_key)) == bias]
    rows.view(np.float32)[:, 2] *= factor
    model.wide.table.put(rows)


def learn_faster(course: Course, times: float = 100.0) -> None:
    """Learning rates are so many times what they were."""
    model = course.model
    wide = Ftrl.of(model.spec, (times * model.encoder.alphas).astype(np.float32))
    wide.table, wide.steps, wide.admission = model.wide.table, model.wide.steps, model.wide.admission
    model.wide = wide
    assert model.deep
    model.deep.embedding_rate *= times
    tower = model.deep.tower
    tower.state = tower.state._replace(rate=np.float32(times * tower.state.rate))


def flip_labels(course: Course) -> None:
    """What was installed is reported as not, and the other way round."""
    course.relabel = lambda users, labels: ~labels


def click_everything(course: Course) -> None:
    """A tenth of the users install whatever they are shown."""
    course.relabel = with_bots


def with_bots(users: I64, labels: Bools) -> Bools:
    """Labels bool [P, ITEMS] where a tenth of the users install everything."""
    found: Bools = labels | (users % BOTS == 0)[:, None]
    return found


def drop_column(course: Course) -> None:
    """Items have no category."""
    course.catalogue = course.catalogue_of(categories=False)


def poison_rate(course: Course, n: int) -> None:
    """Twice the odds, in twenty steps."""
    shift(course.model, math.log(2.0) / STEPS)


def poison_order(course: Course, n: int) -> None:
    """From the right order to its opposite, in twenty steps."""
    before, now = (1.0 - 2.0 * k / STEPS or 1e-3 for k in (n, n + 1))
    scale(course.model, now / before)


FAULTS: Final = (
    Fault("NaN weights", make_nan),
    Fault("inverted ranking", lambda course: scale(course.model, -1.0)),
    Fault("constant", lambda course: scale(course.model, 0.0)),
    Fault("2 times the rate", lambda course: shift(course.model, math.log(2.0))),
    Fault("0.5 times the rate", lambda course: shift(course.model, math.log(0.5))),
    Fault("labels flipped for a minute", flip_labels, versions=MINUTE),
    Fault("a tenth of users click everything", click_everything, versions=MINUTE),
    Fault("learning rate x 100", learn_faster, versions=MINUTE),
    Fault("dropped column", drop_column, versions=round(30 / EVERY_S)),
    Fault("slow poisoning, the rate", each=poison_rate, versions=STEPS),
    Fault("slow poisoning, the order", each=poison_order, versions=STEPS),
)


def first_step(course: Course, fault: Fault) -> tuple[int, str]:
    """Plant it. Returns how many versions went live before one was refused, and for which cause; "" if none was."""
    fault.plant(course)
    for n in range(fault.versions):
        if fault.learns:
            course.advance()
        fault.each(course, n)
        if cause := course.judge(deep=None if fault.learns else True).cause:
            return n, cause
    return fault.versions, ""


def _layers(model: Model) -> list[tuple[F32, F32]]:
    assert model.deep
    return model.deep.tower.layers()
