"""The spec's table `explore`: how pages show items of which the model knows little, so that it learns of them."""

from typing import Annotated, Literal

from msgspec import Meta

from stream.spec.values import Part, Positive, Probability

ExploreKind = Literal["none", "epsilon", "thompson", "ucb"]


class Explore(Part, frozen=True):
    """Exploration, position by position, after rules.

    "epsilon": with probability `epsilon` a position shows any candidate, all alike. "thompson": each candidate's
    log-odds are drawn for each position from a normal distribution around what they are, and the greatest is shown;
    the standard deviation is `scale` · u. "ucb": the greatest log-odds + `scale` · u are shown; nothing is drawn, so a
    page has no propensities, and off-policy estimates can't use it.

    u is what the model doesn't know of an item: u² = Σ 1 / (`prior` + n) over the page's keys of the wide features and
    crosses of [item], except those with `user.id` or the history; n is FTRL's sum of squared gradients, 0 of a new key.
    Draws are a function of `seed` and the request's id.
    """

    kind: ExploreKind = "none"
    epsilon: Probability = 0.05
    scale: Positive = 0.25
    prior: Annotated[float, Meta(ge=1e-6)] = 2.0  # u stays finite
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 0

    @property
    def needs_uncertainty(self) -> bool:
        """Whether the ranker needs sums of squared gradients beside the wide weights."""
        return self.kind in ("thompson", "ucb")
