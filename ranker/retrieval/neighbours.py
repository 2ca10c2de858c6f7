"""Items whose vectors are near those of the user's last ones."""

from ranker.kernels.retrieval import user_vector
from ranker.retrieval.best import best_of
from ranker.retrieval.pools import Query


def neighbours(query: Query) -> list[str]:
    """Items with the greatest u · output + bias, where u is the mean of the input vectors of the user's last items, of
    which the newest count most; of all items, exactly.
    """
    if query.learned is None or not query.history:
        return []
    user = user_vector(query.learned.rows, query.last_ids)
    if not len(user):
        return []
    vectors = query.learned.vectors
    scores = user @ vectors.outputs + vectors.biases
    return query.columns.names_of(vectors.ids[best_of(scores, vectors.ids, query.depth)])
