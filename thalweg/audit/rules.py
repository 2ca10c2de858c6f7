"""The rules of the join, read from the spec independently of the joiner."""

from dataclasses import dataclass

from stream.spec.parts import Policy
from stream.spec.spec import Spec
from stream.spec.values import duration_ms


@dataclass(frozen=True)
class AuditRules:
    """The rules of the join; event time in ms."""

    policy: Policy = "eager"
    window_ms: int = 2_000
    lateness_ms: int = 0
    known_ms: int = 2_000
    early_ms: int | None = None
    ahead_ms: int = 60_000
    organic: bool = False  # installs that no page claims are emitted
    organic_examples: bool = False  # in `examples`, too
    skew_ms: int = 1_000  # how much older than its page an install may be that names it

    @property
    def life_ms(self) -> int:
        """How long after its event time a page can still be corrected."""
        return self.window_ms + self.known_ms

    @property
    def waits_ms(self) -> int:
        """How long an install waits for a page that follows it in the log."""
        return self.life_ms if self.early_ms is None else min(self.early_ms, self.life_ms)


def audit_rules(spec: Spec) -> AuditRules:
    """The spec's rules."""
    label = spec.label
    early_ms = None if label.early is None else duration_ms(label.early)
    window_ms, lateness_ms, known_ms = map(duration_ms, (label.window, label.lateness, label.known))
    return AuditRules(
        label.policy, window_ms, lateness_ms, known_ms, early_ms,
        organic=label.organic is not False, organic_examples=label.organic == "examples",
        skew_ms=duration_ms(label.skew),
    )  # fmt: skip
