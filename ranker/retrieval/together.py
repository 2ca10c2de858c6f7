"""Items that are installed together with the user's last ones."""

from ranker.kernels.retrieval import together_with
from ranker.retrieval.best import best_of
from ranker.retrieval.pools import Query


def together(query: Query) -> list[str]:
    """What those who installed the user's last items installed shortly before or after: by the lists that the learner
    keeps, summed over the last items, of which the newest count most.
    """
    if query.learned is None or not query.history:
        return []
    ids, scores = together_with(query.learned.rows, query.last_ids)
    return query.columns.names_of(ids[best_of(scores, ids, query.depth)])
