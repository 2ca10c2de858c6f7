"""How a model learns, is judged and published: the spec's tables `wide`, `deep`, `label`, `publish`, `drift`."""

import math
from typing import Annotated, Final, Literal

from msgspec import Meta, field

from stream.spec.columns import Cross
from stream.spec.values import (
    Admission,
    Bound,
    Count,
    Duration,
    NotNegative,
    Pages,
    Part,
    Positive,
    Probability,
    SampleShare,
)

Policy = Literal["wait", "eager", "fake_negative", "delayed_negative"]
OrganicTo = Literal["topic", "examples"]
DriftAction = Literal["retrain", "forget", "freeze", "none"]

WEIGHTS_MAX: Final = 100_000_000  # of the deep part's layers: 800 MB with AdaGrad's sums
DELAYS_MAX: Final = 8  # of `delayed_negative`


class Wide(Part, frozen=True):
    """The part that memorises: FTRL-Proximal over fields and cross-products.

    A key gets a weight on the `admit`-th page that has it, and loses it when it isn't seen for `expire` of event time.
    Over `max_keys` the least recently seen are evicted. `bias_alpha`: the bias's learning rate, by default
    `alpha`. Where labels are rare, `label.base_rate` says where the bias starts. Sums of squared gradients, which slow
    learning down, halve with each `half_life` of event time, by default never; weights stay.
    """

    alpha: Positive = 0.05
    bias_alpha: Positive | None = None
    beta: NotNegative = 1.0
    l1: NotNegative = 0.0
    l2: NotNegative = 0.0
    admit: Admission = 1
    expire: Duration | None = None
    max_keys: Bound = 50_000_000
    half_life: Duration | None = None
    features: list[str] = []
    crosses: list[list[str] | Cross] = []

    @property
    def bias_pull(self) -> float:
        """How strongly β and λ2 pull the bias to where it started."""
        return self.beta / (self.bias_alpha or self.alpha) + self.l2


class WarmStart(Part, frozen=True):
    """Every `every` examples, and when `[drift]` calls for it, a new model is trained from the live one on the last
    `window` examples, and takes over if it is no worse on the next `judged`. 0: not from time to time.
    The test goes on until there are 200 of the rarer label (or `judged` / 25, if that is less), for 20 times `judged`
    at most: an interval on fewer is too wide to tell a model that is as good from a worse one.
    """

    every: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    window: Annotated[int, Meta(ge=1, le=10_000_000)] = 20_000
    judged: Annotated[int, Meta(ge=100, le=10_000_000)] = 5_000


class Deep(Part, frozen=True):
    """The part that generalises: embeddings, ReLU tower, AdaGrad.

    An id gets an embedding row on the `min_count`-th page that has it, and loses it when it isn't seen for `expire` of
    event time. Over `max_rows` the least recently seen are evicted; rows are reused. AdaGrad's sums of squares start at
    `initial_accumulator`: where labels are rare, the first positives move the tower too far if they start at 0. What
    they have beyond it halves with each `half_life` of event time, by default never; weights stay.
    Embeddings learn at `embedding_rate`, by default `learning_rate`: where labels are rare, they diverge at rates that
    are good for the tower.
    """

    features: list[str] = []
    embedding_dim: Annotated[int, Meta(ge=1, le=1024)] = 32
    min_count: Pages = 10
    expire: Duration | None = None
    max_rows: Bound = 5_000_000
    quantiles: Annotated[int, Meta(ge=2, le=1024)] = 64
    hidden_units: list[Count] = field(default_factory=lambda: [128, 64])
    learning_rate: Positive = 0.02
    embedding_rate: Positive | None = None
    initial_accumulator: NotNegative = 0.0  # TensorFlow's AdaGrad has 0.1
    half_life: Duration | None = None
    micro_batch: Annotated[int, Meta(ge=1, le=4096)] = 8
    warm_start: WarmStart = WarmStart()


class Label(Part, frozen=True):
    """The join: when an impression becomes a labelled example. `window` is 1 ms at least.

    A new model predicts about `base_rate`, the share of positives that you expect. By default it's a half: where labels
    are rare, the first thousands of examples teach little else. It makes no difference to a model that exists.

    Of negatives a share of `sample_negatives` is learned, by hash, at weights that make up for the others. Statistics
    count all; log loss, AUC and calibration weigh labels as learning does; ranking is judged by the pages of the same
    share of users, which are predicted whole.
    """

    policy: Policy = "eager"
    window: Duration = "30m"
    lateness: Duration = "0s"
    known: Duration = "2s"  # how long after its window a page can still be corrected
    early: Duration | None = None  # how long an install waits for a page that follows it in the log
    skew: Duration = "1s"  # how much older than its page an install may be that names it: clocks differ
    organic: bool | OrganicTo = False  # emit installs without a page: see `organic_in`
    delays: list[Duration] = []  # of `delayed_negative`: when negatives are emitted; quantiles of installs' delays
    base_rate: Probability = 0.5
    sample_negatives: SampleShare = 1.0

    @property
    def base_log_odds(self) -> float:
        """Log-odds of `base_rate`."""
        return math.log(self.base_rate / (1 - self.base_rate))

    @property
    def are_negatives_early(self) -> bool:
        """Whether negatives are emitted before the window closes, so that installs are expected to correct them."""
        return self.policy in ("fake_negative", "delayed_negative")

    @property
    def organic_in(self) -> tuple[OrganicTo, ...]:
        """The topics of organic installs: `true` and "topic" mean `organic`, "examples" means both."""
        if not self.organic:
            return ()
        return ("topic", "examples") if self.organic == "examples" else ("topic",)


class Gate(Part, frozen=True):
    """What a version must satisfy to be published.

    *Without labels*, on recent pages that the live version scored, and an earlier one: the mean log-odds may move by
    `shift_max`, .6 of it from the earlier version; their standard deviation, and norms of layers and embeddings, by a
    factor of `spread_max`, `norm_max`; of pairs of a page's items `agreement_min` must be in the same order, weighted
    by how far apart the older version has them. The bounds widen with the examples learned between the two versions:
    they are twice as wide after `patience` examples; for a young model sooner.

    *By the recent labels*, in a window of at least 2,000 examples and 200 positives: `calibration` bounds mean
    prediction / mean label, unless chance alone explains the difference. `log_loss_rise_max` is relative to always
    predicting the window's own label rate, where half of the labels are positive; elsewhere in proportion to that
    prediction's log loss. Under `fake_negative` labels beyond the model's usual share don't count for the lower bound.

    After `refusals_max` refusals in a row the learner returns to its last checkpoint that was proven good.

    *Continuously*, `holdout` of all pages aren't learned, and judge the model; 0: all are learned. When they find it
    worse than it was, the learner returns to what it was.
    """

    log_loss_rise_max: Positive = 0.05
    calibration: tuple[Positive, Positive] = (0.8, 1.25)
    shift_max: Positive = 0.5
    spread_max: Annotated[float, Meta(gt=1)] = 2.0
    agreement_min: Probability = 0.8
    norm_max: Annotated[float, Meta(gt=1)] = 2.0
    patience: Count = 20_000
    refusals_max: Count = 20
    holdout: Annotated[float, Meta(ge=0, le=0.5)] = 0.01


class Publish(Part, frozen=True):
    """How often snapshots go out."""

    every: Duration = "250ms"
    deep_every: Duration = "1s"
    gate: Gate = Gate()


class Drift(Part, frozen=True):
    """What follows when the model becomes worse beside always predicting the recent label rate.

    Of all examples or, with `slices`, of those of a slice. `bound`: how much worse, in standard deviations of a block
    of fifty labels of the rarer kind, summed up; a lower one finds drift earlier and raises more false alarms.
    "retrain": a new model is trained, as by `thalweg retrain`. "forget": of the sums of squares that slow learning down
    a share of `keeps` is left; weights stay. "freeze": no version is published until the model is as good as before, or
    has learned 2,000 labels of the rarer kind. All raise an alarm in log and metrics; "none": only that.
    """

    action: DriftAction = "retrain"
    slices: bool = True
    bound: Annotated[float, Meta(ge=3, le=1000)] = 10.0
    keeps: Annotated[float, Meta(ge=0.0001, le=1)] = 0.01
