"""What a backtest says of ranked lists: HR@10, MRR@10, NDCG@10 and recall@100 of installed items, by list."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from rich.table import Table

from thalweg.backtest.backtest import Scores
from thalweg.backtest.judgement import Judgement
from thalweg.backtest.next_install import CATALOGUE, IN_SESSION, ON_PAGE, RETRIEVED
from thalweg.backtest.ranks import RANK_FIGURES, Ranks
from thalweg.backtest.report import interval_text, named

HEADS: Final = {"hit_rate": "HR@10", "mrr": "MRR@10", "ndcg": "NDCG@10", "recall_100": "recall@100"}
TITLES: Final = {
    CATALOGUE: "next install, of all items that the user hasn't installed",
    RETRIEVED: "next install, of the same candidates for all: what the spec retrieves",
    ON_PAGE: "installed items, among those of their page that weren't installed",
    IN_SESSION: "installed items, among those of the user's session that weren't installed",
}
NOTES: Final = {
    CATALOGUE: "known is what came in earlier seconds; {first} and others of ours order what the spec retrieves",
    RETRIEVED: "known is what came in earlier seconds; an install that wasn't retrieved counts 0",
    ON_PAGE: "known is what came before the page in the log",
    IN_SESSION: "known is what came before the item's page in the log; session peers rank it in the catalogue then",
}

RankJudgements = Mapping[str, Mapping[str, Judgement]]  # by list and name


def rank_judgements(scores: Scores) -> RankJudgements:
    """Of each list that was ranked, of all who ranked it."""
    return {of: ranks.judge() for of, ranks in scores.ranks.items()}


def rank_figures(scores: Scores, judged: RankJudgements) -> dict[str, float]:
    """Flat: `rules.catalogue_ndcg`, `…_low` and `…_high` of its interval, and `rules.catalogue_ndcg_gain` with its own
    over the first entrant; `catalogue_installs`: of how many."""
    found: dict[str, float] = {}
    for of, by_name in judged.items():
        found[f"{of}_installs"] = len(scores.ranks[of].users)
        first = by_name[scores.names[0]]
        for name, one in by_name.items():
            for key in _keys(of):
                prefix = f"{name.replace(' ', '_')}.{of}_{key}"
                found |= named(prefix, "", one.of(key), with_value=True)
                if one is not first:
                    found |= named(f"{prefix}_gain", "", one.gain_over(first, key), with_value=True)
    return found


def _keys(of: str) -> Sequence[str]:
    """The figures of a list. Recall is of retrieval: others are of what was retrieved or shown."""
    return RANK_FIGURES if of == CATALOGUE else RANK_FIGURES[: RANK_FIGURES.index("recall_100")]


def rank_tables(scores: Scores, judged: RankJudgements) -> list[Table]:
    """A table for each list."""
    return [_table(scores, of, scores.ranks[of], by_name) for of, by_name in judged.items()]


def _table(scores: Scores, of: str, ranks: Ranks, judged: Mapping[str, Judgement]) -> Table:
    first = scores.names[0]
    keys = [key for key in _keys(of) if np.isfinite(judged[first].of(key).value)]
    users = len(np.unique(ranks.users))
    caption = "\n".join([
        f"{len(ranks.users):,} installs by {users:,} users, lists of {np.median(ranks.sizes):,.0f} (median); "
        "95 % by bootstrap over users, paired",
        NOTES[of].format(first=first),
        "equal scores: the more installed item first; what is equal then counts as all its orders on average",
    ])  # fmt: skip
    table = Table("", *(HEADS[key] for key in keys), f"NDCG@10 above {first}", title=TITLES[of], caption=caption,
                  title_justify="left", caption_justify="left", min_width=100)  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for name, one in judged.items():
        gain = "" if name == first else interval_text(one.gain_over(judged[first], "ndcg"), sign="+")
        table.add_row(name, *(interval_text(one.of(key)) for key in keys), gain)
    return table
