"""Why a user's page is as it is, with named fields: what HTTP answers, and what clients read."""

import msgspec


class WideTerm(msgspec.Struct, frozen=True):
    """A weight of the wide part that fired. `name`: `column=value x column=value`."""

    name: str
    weight: float


class DeepTerm(msgspec.Struct, frozen=True):
    """A column of the deep part, with the value that it has.

    `contribution`: by how much the logit would fall if the model didn't know the value: a category that has no
    embedding, a number that is missing. Columns act together: their contributions don't add up to the deep part.
    """

    column: str
    value: str
    contribution: float


class ItemExplanation(msgspec.Struct, frozen=True):
    """Why one item scores as it does: `logit` = `bias` + `wide` + `deep`, and `score` = σ(`logit`).

    `rank`: among the candidates, from 1; 0: it is none. `on_page`: whether the page has it. `wide_terms` and
    `deep_terms`: the largest, of `wide_fired` weights that aren't 0 and `deep_columns` columns. `source`: what
    retrieved it, at `source_rank` there; empty and 0 where the request named it. `propensity`: with what probability it
    is shown at its rank; null where nothing is drawn. `removed_by`: rules that keep an item off that is no candidate.
    It's ordered by `logit` + `retrieval`, what its rank among the candidates that were retrieved adds, + `boosts`, what
    rules that boost or bury it add.
    """

    item: str
    title: str
    rank: int
    on_page: bool
    score: float
    logit: float
    bias: float
    wide: float
    deep: float
    wide_terms: list[WideTerm]
    wide_fired: int
    deep_terms: list[DeepTerm]
    deep_columns: int
    source: str = ""
    source_rank: int = 0
    propensity: float | None = None
    removed_by: list[str] = []
    boosts: dict[str, float] = {}
    retrieval: float = 0.0


class Explanation(msgspec.Struct, frozen=True):
    """A page that a user would get now, item by item, or one item.

    `version_age_ms`: since it was made. `newest_event_ms`: the greatest event time of a page that it has learned;
    `staleness_ms`: the age of the newest label learned. `notes`, `removed`, `retrieval_version`: see RankReply.
    """

    user: str
    model: str
    time_ms: int
    version: int
    version_age_ms: int
    newest_event_ms: int
    staleness_ms: int
    examples: int
    scored: int
    items: list[ItemExplanation]
    notes: list[str] = []
    removed: dict[str, int] = {}
    retrieval_version: int = 0
