"""How a spec wants its labels told, in the numbers that the join works with."""

from dataclasses import dataclass
from typing import Literal

from stream.spec.spec import Spec, duration_ms

Policy = Literal["wait", "eager", "fake_negative"]


@dataclass(frozen=True)
class LabelRules:
    """How labels are told; event time in ms.

    `wait`: every label when the window closes. `eager`: a positive at once, negatives at the close.
    `fake_negative`: all negative at once (told as `window_closed`), a (late) positive when it comes.
    `known_ms`: how long after its close a page can still be corrected. `early_ms`: how long an install waits for
    pages that come after it in the log (None: as long as it is remembered). `bytes_max`: what one partition may
    remember (None: no limit). `organic`: installs that no page claimed are told,
    `organic_examples`: in `examples` too. `skew_ms`: how long before its page
    an install may be stamped that names it: clocks differ.
    """

    policy: Policy = "eager"
    window_ms: int = 2_000
    lateness_ms: int = 0
    known_ms: int = 2_000
    early_ms: int | None = None
    bytes_max: int | None = None
    organic: bool = False
    skew_ms: int = 1_000
    organic_examples: bool = False

    @property
    def life_ms(self) -> int:
        """How long anything is remembered, counted from its event time by the watermark."""
        return self.window_ms + self.known_ms

    @property
    def waits_ms(self) -> int:
        """How long an install waits for a page that comes after it."""
        return self.life_ms if self.early_ms is None else min(self.early_ms, self.life_ms)


def label_rules(spec: Spec, bytes_max: int | None = None) -> LabelRules:
    """The spec's rules of the join; `bytes_max` is what one partition may remember."""
    label = spec.label
    early_ms = None if label.early is None else duration_ms(label.early)
    return LabelRules(
        label.policy,
        duration_ms(label.window),
        duration_ms(label.lateness),
        duration_ms(label.known),
        early_ms=early_ms,
        bytes_max=bytes_max,
        organic="topic" in label.organic_in,
        organic_examples="examples" in label.organic_in,
        skew_ms=duration_ms(label.skew),
    )
