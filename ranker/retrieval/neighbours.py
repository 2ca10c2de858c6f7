"""Items whose vectors are near those of the user's last ones."""

from collections.abc import Iterator

from ranker.kernels.retrieval import scores_near, user_vector
from ranker.retrieval.best import best_of
from ranker.retrieval.pools import Query


def neighbours(query: Query) -> Iterator[str]:
    """Items with the greatest u · output + bias, where u is the mean of the input vectors of the user's last items, of
    which the newest count most; of all items, exactly.
    """
    if query.learned is None or not query.history:
        return iter(())
    user = user_vector(query.learned.rows, query.last_ids)
    if not len(user):
        return iter(())
    vectors = query.learned.vectors
    scores = scores_near(user, vectors)
    return query.columns.names_of(vectors.ids[best_of(scores, vectors.ids, query.depth)])
