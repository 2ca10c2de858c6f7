"""Items whose vectors are near those of the user's last ones."""

from ranker.kernels.retrieval import user_vector
from ranker.retrieval.pools import Query
from ranker.retrieval.vector_search import VectorSearch


def neighbours(query: Query) -> list[str]:
    """Items with the greatest u · output + bias, where u is the mean of the input vectors of the user's last items, of
    which the newest count most; of more items than `vector_indexer.EXACT_MAX`, approximately.
    """
    if query.learned is None or not query.history:
        return []
    user = user_vector(query.learned.rows, query.last_ids)
    if not len(user):
        return []
    search = query.nearest or VectorSearch(query.learned.vectors)
    return query.columns.names_of(search.nearest(user, query.depth))
