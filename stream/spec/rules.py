"""Rules of what a page may show, and where: the spec's table `rules`, and the rules that a request brings.

Filters (`installed`, `require`, `forbid`) take candidates away before they are scored; `boost`, `cap`, `pin` and
`diversity` decide the page's order. docs/rules.md has an example of each.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from stream.spec.values import Part, Probability

RULES_OF_A_SPEC_MAX: Final = 100
WITHIN_MAX: Final = 100  # positions that a cap's window has

Apply = Literal["always", "named"]
InstalledOf = Literal["retrieved", "all", "none"]
Values = Annotated[list[str | float], Meta(min_length=1)]
Factor = Annotated[float, Meta(ge=1e-6, le=1e6)]
Position = Annotated[int, Meta(ge=1, le=1_000)]
Items = list[Annotated[str, Meta(min_length=1, max_length=256)]]


class Rule(Part, frozen=True, kw_only=True, tag_field="kind"):
    """What all kinds have. `apply`: to all requests, or to those that name the rule. `where`: only to requests whose
    columns (of user or context) have one of these values; bands of numbers are columns, too.
    """

    apply: Apply = "always"
    where: dict[str, Values] = {}


class Installed(Rule, frozen=True, kw_only=True, tag="installed"):
    """What the user has installed is left out: `of` what is retrieved (also without such a rule), of all candidates, or
    of none.
    """

    of: InstalledOf = "retrieved"


class ItemRule(Rule, frozen=True, kw_only=True):
    """Items that match: those named by `items`, or whose attribute `of` passes all comparisons.

    `values`: it has one of them. `equals`: it has a value that this column of the request (of user or context) has.
    `at_least`, `at_most`, `above`, `below`: a number, or a column of the request. `default` stands in where a request
    lacks that column. What isn't known, of the item or of the request, doesn't match.
    """

    items: Items = []
    of: str = ""
    values: list[str | float] = []
    equals: str = ""
    at_least: float | str | None = None
    at_most: float | str | None = None
    above: float | str | None = None
    below: float | str | None = None
    default: str | float | None = None

    def bounds(self) -> dict[str, float | str]:
        """The comparisons of numbers, by name."""
        named = {name: getattr(self, name) for name in BOUNDS}
        return {name: bound for name, bound in named.items() if bound is not None}


class Require(ItemRule, frozen=True, kw_only=True, tag="require"):
    """Only items that match stay."""


class Forbid(ItemRule, frozen=True, kw_only=True, tag="forbid"):
    """Items that match are left out."""


class Boost(ItemRule, frozen=True, kw_only=True, tag="boost"):
    """The odds of items that match are multiplied by `factor`: below 1 it buries them. Scores stay the model's."""

    factor: Factor


class Cap(Rule, frozen=True, kw_only=True, tag="cap"):
    """Of each value of the attribute `of` a page has at most `count` items; with `within`, each run of `within`
    positions has.
    """

    of: str
    count: Annotated[int, Meta(ge=1, le=1_000)]
    within: Annotated[int, Meta(ge=0, le=WITHIN_MAX)] = 0


class Pin(Rule, frozen=True, kw_only=True, tag="pin"):
    """This item is shown at this position (from 1), candidate or not, unless a filter takes it away."""

    item: Annotated[str, Meta(min_length=1, max_length=256)]
    position: Position


class Diversity(Rule, frozen=True, kw_only=True, tag="diversity"):
    """Item by item the odds are multiplied by 1 − `strength` × the similarity to the most similar item above.

    Similarity: shared values of the attributes `by`, over all that the two have (Jaccard). After maximal marginal
    relevance (Carbonell & Goldstein 1998), but on odds, so that one strength suits any label rate.
    """

    by: Annotated[list[str], Meta(min_length=1)]
    strength: Probability


AnyRule = Installed | Require | Forbid | Boost | Cap | Pin | Diversity

BOUNDS: Final = ("at_least", "at_most", "above", "below")
KINDS: Final[Mapping[str, Any]] = {
    str(kind.__struct_config__.tag): kind for kind in (Installed, Require, Forbid, Boost, Cap, Pin, Diversity)
}
