"""What an audit finds: figures, and the first differences of each kind."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from thalweg.audit.log_events import NEVER
from thalweg.audit.rules import AuditRules

DIFFERENCES_MAX: Final = 20  # of each fault

FAULTS: Final = {
    "missing": "a label that should be there isn't",
    "surplus": "examples of a page or item that no event tells of, or that came too late to count",
    "wrong": "the last label emitted isn't the right one",
    "emitted_twice": "emitted again with another id, though the label hadn't changed: metrics count it twice",
    "misnamed": "a reason that doesn't go with its label, with the policy, or with what was emitted before",
    "unfounded": "an id that isn't made of page, position, reason and an install of the item: duplicates aren't known",
    "weighed": "a weight other than 1: the learner weighs, by the policy",
    "altered": "the page in an example isn't the page that was shown",
    "learned_twice": "emitted again after more other examples than the learner remembers: it learns them twice",
    "organic_missing": "an install that no page claimed isn't in `organic`",
    "organic_surplus": "in `organic`, but claimed by a page, taken back, or not as any event tells",
    "organic_unlearned": "an install that no page claimed isn't in `examples`, though the spec wants it there",
    "organic_learned": "an organic install in `examples` that was claimed, taken back, or isn't as any event tells",
    "bad_examples": "emitted, and can't be read",
}
FIGURES: Final = (
    "pages", "installs", "bad_events", "future_events", "late", "repeated_pages", "extended_pages", "labels",
    "positives", "settled", "shed", "pending", "behind", "unsure", "reused", "emitted", "emitted_again", "organic",
    "organic_emitted", "organic_in_examples",
)  # fmt: skip


@dataclass(frozen=True)
class Progress:
    """How far the joiner has committed to be with a partition; event times in ms.

    `floor_ms`: pages up to it may have been closed before their time, because memory was full. `unsure_ms`: installs
    are emitted as organic from a window after it on.
    """

    finished_ms: int = 0
    floor_ms: int = 0
    unsure_ms: int = NEVER


@dataclass(frozen=True)
class Difference:
    """One thing that is wrong: which example, what was expected, what was found and where."""

    fault: str
    request_id: str
    position: int
    item: str
    expected: str
    found: str
    install: str = ""  # "id of user", where it's about an organic install; `request_id` is the page that it named

    @property
    def about(self) -> str:
        """What it is about."""
        if not self.item:
            return "a record"
        of = f"install {self.install}" if self.install else f"page {self.request_id}"
        return f"{of}, item {self.item}" + ("" if self.install else f" at {self.position}")

    @property
    def text(self) -> str:
        """What was expected, if anything, and what was found."""
        return f"expected {self.expected or 'nothing'}, found {self.found}"


@dataclass
class Audit:
    """Figures of one audit, and the first differences of each kind."""

    rules: AuditRules
    figures: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.figures.update(dict.fromkeys((*FIGURES, *FAULTS), 0))

    def found(self, difference: Difference) -> None:
        """Count a fault; it is named if it is one of the first."""
        self.figures[difference.fault] += 1
        if self.figures[difference.fault] <= DIFFERENCES_MAX:
            self.differences.append(difference)

    @property
    def fine(self) -> bool:
        """Nothing is missing, nothing is wrong."""
        return not any(self.figures[fault] for fault in FAULTS)

    @property
    def judged(self) -> bool:
        """Whether there was anything that could be missing or wrong."""
        return bool(self.figures["settled"] or self.figures["organic"])

    @property
    def verdict(self) -> str:
        """One line."""
        if self.fine and not self.judged:
            waiting = ", ".join(f"{self.figures[name]} {name}" for name in ("pending", "behind", "shed", "unsure"))
            return (
                f"nothing could be judged: of {self.figures['labels']} labels {waiting}. See whether the joiner runs "
                "(`thalweg status`), look again later, or further back with --since"
            )
        faults = [f"{self.figures[fault]} {fault}" for fault in FAULTS if self.figures[fault]]
        judged = f"{self.figures['settled']} labels judged"
        return f"{judged}: " + (", ".join(faults) if faults else "nothing is missing, nothing is wrong")

    def by_fault(self) -> list[Difference]:
        """The differences, in the order of FAULTS."""
        order = list(FAULTS)
        return sorted(self.differences, key=lambda one: order.index(one.fault))


def flat(result: Audit) -> dict[str, object]:
    """The figures for `--json`, with the rules that they were judged by."""
    return {**{f"rule_{name}": value for name, value in asdict(result.rules).items()}, **result.figures}


def of_partition(progress: Mapping[int, Progress] | None, partition: int) -> Progress:
    """What the joiner has committed for a partition: nothing, where it hasn't."""
    return (progress or {}).get(partition, Progress())
