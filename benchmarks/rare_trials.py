"""Trials of `rare`: faults planted into copies of a course, and honest courses.

A trial: at a moment of an ordinary course the process is forked; in the copy a fault is planted and the gate's first
step asked, version by version. If all pass, the second step is: the held-out judge is given pages that the model as it
is then and the one before the fault predicted, with labels drawn by the world's true probabilities, until it comes to
a verdict. Moments differ in pages, labels and weights.
"""

from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, NamedTuple

import numpy as np

from benchmarks.rare_faults import BOTS, FAULTS, Fault, first_step
from benchmarks.rare_world import Course, in_copy
from learner.training.held_out_judge import HeldOutJudge
from learner.training.paired_comparison import Pairs
from stream.tables.dtypes import F64, I64

FIRST_S, EVERY_VERSIONS = 60.0, 8  # when trials begin, and how often they are
AFTER_S: Final = 60.0  # of a course, for faults that go on
PAGES: Final = 500  # that both models predict; their labels are drawn again and again
POSITIVES_MAX: Final = 800  # after which the second step has missed a fault
Step = Literal["first", "second", ""]


class Trial(NamedTuple):
    """What stopped a fault: the step, or "". `cause`: the first step's. `versions` that went live before it was;
    held-out `examples` and `positives` that the second step needed."""

    step: Step
    cause: str
    versions: int
    examples: int
    positives: int


@dataclass(frozen=True)
class TrialCourse:
    """So many trials of each fault on one ordinary course."""

    rate: float
    trials: int
    seed: int


@dataclass(frozen=True)
class HonestCourse:
    """A course without faults."""

    rate: float
    scenario: str
    seed: int
    until_s: float = 200.0


class Honest(NamedTuple):
    """Versions and those refused, by cause; verdicts of the held-out judge, and those that are `worse`."""

    versions: int
    refused: dict[str, int]
    judged: int
    worse: int


def play_trials(job: TrialCourse) -> dict[str, list[Trial]]:
    """All trials of a course, by fault."""
    until_s = FIRST_S + job.trials * EVERY_VERSIONS / 4 + AFTER_S
    course, found = Course(job.rate, "ordinary", until_s, job.seed), {fault.name: list[Trial]() for fault in FAULTS}
    done = 0
    while done < job.trials:
        course.advance()
        course.judge()
        if course.now_s < FIRST_S or course.versions % EVERY_VERSIONS:
            continue
        done += 1
        recent = int(np.searchsorted(course.of.times_ms, 1_000 * course.now_s))
        pages = course.random.integers(recent // 2, recent, PAGES)
        anchor = course.predictions(pages)
        for fault in FAULTS:
            work = partial(trial, course, fault, pages, anchor)
            found[fault.name].append(in_copy(work, Trial))
    return found


def trial(course: Course, fault: Fault, pages: I64, anchor: F64) -> Trial:
    """Plant a fault and see what stops it. `anchor` [P, ITEMS]: what was predicted for `pages` before."""
    versions, cause = first_step(course, fault)
    if cause:
        return Trial("first", cause, versions, 0, 0)
    live = course.predictions(pages)
    return second_step(course, pages, live, anchor, bots=fault.name.startswith("a tenth"))._replace(versions=versions)


def second_step(course: Course, pages: I64, live: F64, anchor: F64, *, bots: bool) -> Trial:
    """The held-out judge on these pages, [P, ITEMS] predictions by both models, page by page, drawn again and again."""
    judge, random = HeldOutJudge(usual_rate=course.base_rate), course.random
    size = max(4, round(4 / course.base_rate) // live.shape[1])  # pages at once
    examples = positives = 0
    while positives < POSITIVES_MAX:
        which = random.integers(len(pages), size=size)
        users = course.of.users[pages[which]]
        labels = random.random((size, live.shape[1])) < course.of.probabilities[pages[which]]
        if bots:
            labels |= (users % BOTS == 0)[:, None]
        of_page = np.repeat(np.arange(examples, examples + size), live.shape[1])
        columns = (labels, np.ones_like(labels), live[which], anchor[which])
        judge.record(Pairs(of_page, np.repeat(users, live.shape[1]),
                           *(column.astype(np.float32).ravel() for column in columns)))  # fmt: skip
        examples, positives = examples + labels.size, positives + int(labels.sum())
        verdict = judge.due_verdict()
        if verdict and verdict.outcome != "waiting":
            return Trial("second" if verdict.outcome == "worse" else "", "", 0, examples, positives)
    return Trial("", "", 0, examples, positives)


def play_honest(job: HonestCourse) -> Honest:
    """Judge every version of a course, the first ones too."""
    course, refused = Course(job.rate, job.scenario, job.until_s, job.seed), dict[str, int]()
    while course.goes_on:
        course.advance()
        if cause := course.judge().cause:
            refused[cause] = refused.get(cause, 0) + 1
    outcomes = course.model.held_out.outcomes
    return Honest(course.versions, refused, sum(outcomes.values()), outcomes["worse"])
