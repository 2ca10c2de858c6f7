"""The rules of the join as operators' commands read them from the spec: a second time, not from the joiner."""

from dataclasses import dataclass
from typing import Final

from stream.spec.spec import Policy, Spec, duration_ms

KNOWN_MS: Final = 2_000
AHEAD_MS: Final = 60_000
SKEW_MS: Final = 1_000


@dataclass(frozen=True)
class AuditRules:
    """The rules of the join, as the audit reads them from the spec; event time in ms."""

    policy: Policy = "eager"
    window_ms: int = 2_000
    lateness_ms: int = 0
    known_ms: int = KNOWN_MS
    early_ms: int | None = None
    ahead_ms: int = AHEAD_MS
    organic: bool = False  # installs that no page claimed are emitted
    organic_examples: bool = False  # in `examples`, too
    skew_ms: int = SKEW_MS  # how much older than its page an install may be that names it

    @property
    def life_ms(self) -> int:
        """How long a page can still be corrected, from its event time on."""
        return self.window_ms + self.known_ms

    @property
    def waits_ms(self) -> int:
        """How long an install waits for a page behind it in the log."""
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
