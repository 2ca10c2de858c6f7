"""The result of an audit: figures, and the first differences of each fault."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Final

from thalweg.audit.log_events import NEVER
from thalweg.audit.rules import AuditRules

DIFFERENCES_MAX: Final = 20  # of each fault

FAULTS: Final = {
    "missing": "a label that should be there isn't",
    "surplus": "examples of a page or item that is in no event, or that came too late to count",
    "wrong": "the last label emitted isn't the right one",
    "emitted_twice": "emitted again with another id, though the label hadn't changed: metrics count it twice",
    "misnamed": "a reason that doesn't go with its label, with the policy, or with what was emitted before",
    "unfounded": "an id that isn't made of page, position, reason and an install of the item: duplicates go unnoticed",
    "weighed": "a weight other than 1: the learner weighs, by the policy",
    "altered": "the page in an example isn't the page that was shown",
    "learned_twice": "emitted again after more other examples than the learner remembers: it learns them twice",
    "organic_missing": "an install that no page claimed isn't in `organic`",
    "organic_surplus": "in `organic`, but claimed by a page, retracted, or in no event like that",
    "organic_unlearned": "an install that no page claimed isn't in `examples`, though the spec wants it there",
    "organic_learned": "an organic install in `examples` that was claimed, retracted, or in no event like that",
    "bad_examples": "emitted, and can't be read",
}
FIGURES: Final = (
    "pages", "installs", "bad_events", "future_events", "late", "repeated_pages", "extended_pages", "labels",
    "positives", "settled", "shed", "pending", "behind", "unsure", "reused", "emitted", "emitted_again", "organic",
    "organic_emitted", "organic_in_examples",
)  # fmt: skip


@dataclass(frozen=True)
class JoinerProgress:
    """How far a partition's labels are final, by the joiner's commit; event times in ms.

    `floor_ms`: pages up to it may have been closed early, because memory was full. `unsure_ms`: installs are emitted as
    organic from one window after it on.
    """

    finished_ms: int = 0
    floor_ms: int = 0
    unsure_ms: int = NEVER


@dataclass(frozen=True)
class Difference:
    """One fault: of which example, what was expected, what was found, at which offset."""

    fault: str
    request_id: str
    position: int
    item: str
    expected: str
    found: str
    install: str = ""  # "id of user", where it's about an organic install; `request_id` is the page that it named

    @property
    def about(self) -> str:
        """Which example or install it is about."""
        if not self.item:
            return "a record"
        if self.install:
            return f"install {self.install}, item {self.item}"
        return f"page {self.request_id}, item {self.item} at {self.position}"

    @property
    def text(self) -> str:
        """What was expected and what was found."""
        return f"expected {self.expected or 'nothing'}, found {self.found}"


@dataclass
class AuditReport:
    """Figures of one audit, and the first differences of each fault."""

    rules: AuditRules
    figures: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.figures.update(dict.fromkeys((*FIGURES, *FAULTS), 0))

    def add(self, difference: Difference) -> None:
        """Count a fault; keep its difference if it is one of the first."""
        self.figures[difference.fault] += 1
        if self.figures[difference.fault] <= DIFFERENCES_MAX:
            self.differences.append(difference)

    @property
    def is_clean(self) -> bool:
        """Whether no fault was found."""
        return not any(self.figures[fault] for fault in FAULTS)

    @property
    def has_judged(self) -> bool:
        """Whether there was anything that could be judged."""
        return bool(self.figures["settled"] or self.figures["organic"])

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.is_clean and not self.has_judged:
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


def flat(result: AuditReport) -> dict[str, object]:
    """The figures and rules for `--json`."""
    return {**{f"rule_{name}": value for name, value in asdict(result.rules).items()}, **result.figures}
