"""A spec's rules of label emission, in the numbers that the join works with."""

from dataclasses import dataclass

from stream.runtime.errors import SpecError
from stream.spec.parts import Policy
from stream.spec.spec import Spec
from stream.spec.values import duration_ms


@dataclass(frozen=True)
class LabelRules:
    """Label emission policies; event time in ms. The fields are those of the spec's [label], and part of each commit.

    `wait`: every label when the window closes. `eager`: a positive at once, negatives at the close.
    `fake_negative`: all negative at once (with the reason `window_closed`), a (late) positive when it comes.
    `delayed_negative`: a positive at once; a page closes, and its negatives are emitted, after one of `delays_ms`, by
    hash of its request id. They are the quantiles of installs' delays, so that of whatever pages negatives come by the
    same law as positives; a positive after its page's close is a late one.
    `known_ms`: how long after its close a page can still be corrected. `early_ms`: how long an install waits for
    pages behind it in the log (None: as long as it is retained). `bytes_max`: bound of one partition's state (None: no
    limit). `organic`: installs without a page are emitted, `organic_examples`: into `examples`, too. `skew_ms`: how
    long before its page an install that names it may be stamped: clocks differ.
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
    delays_ms: tuple[int, ...] = ()

    @property
    def open_ms(self) -> tuple[int, ...]:
        """How long pages stay open: all as long as the window, or one part of them each."""
        return self.delays_ms if self.policy == "delayed_negative" else (self.window_ms,)

    @property
    def life_ms(self) -> int:
        """How long pages and installs are retained: from their event time to the watermark."""
        return self.window_ms + self.known_ms

    @property
    def waits_ms(self) -> int:
        """How long an install waits for a page behind it in the log."""
        return self.life_ms if self.early_ms is None else min(self.early_ms, self.life_ms)


def label_rules(spec: Spec) -> LabelRules:
    """The spec's rules of the join. Raises SpecError."""
    label = spec.label
    if label.policy == "delayed_negative" and not label.delays:  # a command has changed the policy of a checked spec
        raise SpecError(f"{spec.name}: the policy delayed_negative needs delays in [label]; `thalweg init` drafts them")
    return LabelRules(
        label.policy,
        duration_ms(label.window),
        duration_ms(label.lateness),
        duration_ms(label.known),
        early_ms=None if label.early is None else duration_ms(label.early),
        organic="topic" in label.organic_in,
        organic_examples="examples" in label.organic_in,
        delays_ms=tuple(map(duration_ms, label.delays)),
        skew_ms=duration_ms(label.skew),
    )
