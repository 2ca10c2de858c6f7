"""The Open Bandit sample: impressions and clicks of ZOZOTOWN, a fashion store, in a week of November 2019.

Y. Saito, S. Aihara, M. Matsutani, Y. Narita: Open Bandit Dataset and Pipeline (NeurIPS Datasets and Benchmarks
2021). Licence: CC BY 4.0. The sample is 10,000 rows for each of two policies and three campaigns; it is
extracted from the wheel of their library, which is neither installed nor imported.

A page there has three slots. The sample has single rows, almost never (9 of 9,991 pages in `random/all`) two of
the same page: so a row is a page of one item, and its slot is part of the request's context.
"""

import csv
import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Final

from producers.source import WorldEvent
from producers.wheel_datasets import WheelDataset
from stream.events.types import Impression, Install, Item, User, Value
from stream.runtime.errors import DataError

FOLDER_IN_WHEEL: Final = "obp/dataset/obd/"
SHA256: Final = {  # (rows, items) by policy and campaign
    "random/all": (
        "7168295b6e0a9eabcf3392320a5dd434e542b68e705d5cd9491499af589812f1",
        "eba04cc23d5f130a93ff174c5392986882b94c3839433cb8143870eaa6221358",
    ),
    "random/men": (
        "ede6d08c6877f99cd3770f7d09e26c738e6aa6de4445ccccfb1356ba5d06b1eb",
        "6d855c2b7e917d0448d71bbe62c023147495882c0fdc8c41e86fef86abf9fe09",
    ),
    "random/women": (
        "e65f3bd3beb17664fa69cc129bf7bf852a775f8ffa630506e505fc905315bb34",
        "b1ca4905f97703d196004f2ad4552c1e90c2afad8b50688d333b0d2dc0b33147",
    ),
    "bts/all": (
        "0ad874e4dbf6902f0845dd478ad8dde5ef6903583d3ffaace78411bdad064106",
        "5d4359ba1cfa3ae88f0f1bae66bd633859fe6323817183632ee57b83539d9153",
    ),
    "bts/men": (
        "db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527",
        "3b411ed6b0471316321a6b93f4f756bb25888eac6218cd71d0b603d41d85732d",
    ),
    "bts/women": (
        "e5d1b49a39b608585a2f3014a3f54970430cd37a495c1b73fceb85cdf428a5b8",
        "a56295bad066a558eb783055afd9279f5f4e209a4776eafc22151c53f0ac89d4",
    ),
}
NAME: Final = "openbandit"
DEFAULT: Final = "random/all"  # shown at random: an item's clicks depend on the item, not on a policy
INSTALL_AFTER_MS: Final = 1_000  # the data has no times of clicks
CODE_CHARS: Final = 8  # of a hashed value: enough to be unique
SEGMENT_CHARS: Final = 4  # of each hashed feature in a user's id


def _files() -> Iterator[tuple[str, tuple[str, str]]]:
    for part, (rows, items) in SHA256.items():
        campaign = part.split("/")[1]
        yield _rows(part), (f"{FOLDER_IN_WHEEL}{part}/{campaign}.csv", rows)
        yield _items(part), (f"{FOLDER_IN_WHEEL}{part}/item_context.csv", items)


def _rows(part: str) -> str:
    return f"{part.replace('/', '-')}.csv"


def _items(part: str) -> str:
    return f"{part.replace('/', '-')}-items.csv"


OPEN_BANDIT: Final = WheelDataset(
    name=NAME,
    title="the Open Bandit sample",
    licence="Open Bandit Dataset (ZOZO, Inc.), CC BY 4.0: free to use if you name it, "
    "see https://research.zozo.com/data.html",
    wheel="obp==0.4.1",  # 1.3 MB
    wheel_sha256="87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208",
    files=dict(_files()),
)


def fetch_openbandit(data_dir: Path, progress: Callable[[str], None]) -> Path:
    """The folder of the data set, downloaded and verified unless it is complete. Raises DataError."""
    return OPEN_BANDIT.fetch(data_dir, progress)


def part_of(source: str) -> str | None:
    """The part that a source names: `openbandit` or `openbandit/POLICY/CAMPAIGN`; None for another source.

    Raises DataError for an unknown part.

    >>> part_of("openbandit"), part_of("openbandit/bts/men"), part_of("movielens")
    ('random/all', 'bts/men', None)
    """
    name, _, part = source.partition("/")
    if name != NAME:
        return None
    if part and part not in SHA256:
        raise DataError(f"{source!r}: name one of {', '.join(f'{NAME}/{known}' for known in SHA256)}")
    return part or DEFAULT


def read_openbandit(folder: Path, part: str = DEFAULT) -> Iterator[WorldEvent]:
    """Items, users, then pages and installs by event time; always the same order.

    A row is a page of one item, the n-th one `ob-<n>`, with its propensity, and its slot (1 to 3) in the context; a
    click is an install one second later. The data is anonymous: a user is all rows with the same four features and
    the same items clicked before (`liked`). An item's `popularity` is its count of clicks in the sample: it orders
    replies while there is no model, and is no feature. Raises DataError.
    """
    assert part in SHA256, part
    OPEN_BANDIT.require(folder)
    return _play(_read(folder / _rows(part)), _read(folder / _items(part)))


def _play(rows: list[dict[str, str]], items: list[dict[str, str]]) -> Iterator[WorldEvent]:
    clicks = Counter(row["item_id"] for row in rows if row["click"] == "1")
    for item in items:
        yield _item(item, float(clicks[item["item_id"]]))
    users = [_user(row, len(items)) for row in rows]
    yield from {user.user: user for user in users}.values()
    merged: Iterator[Impression | Install]
    merged = heapq.merge(_installs(rows, users), _pages(rows, users), key=attrgetter("time_ms"))
    yield from merged


def _pages(rows: list[dict[str, str]], users: list[User]) -> Iterator[Impression]:
    for n, (row, user) in enumerate(zip(rows, users, strict=True)):
        yield Impression(
            f"ob-{n}", _time_ms(row), user.user, [row["item_id"]],
            propensities=[float(row["propensity_score"])], context={"slot": row["position"]},
        )  # fmt: skip


def _installs(rows: list[dict[str, str]], users: list[User]) -> Iterator[Install]:
    for n, (row, user) in enumerate(zip(rows, users, strict=True)):
        if row["click"] == "1":
            yield Install(user.user, row["item_id"], _time_ms(row) + INSTALL_AFTER_MS, f"ob-{n}", f"ob-{n}")


def _item(row: dict[str, str], popularity: float) -> Item:
    attributes: dict[str, Value] = {"feature_0": float(row["item_feature_0"])}
    attributes |= {f"feature_{k}": row[f"item_feature_{k}"][:CODE_CHARS] for k in (1, 2, 3)}
    return Item(row["item_id"], attributes, popularity=popularity)


def _user(row: dict[str, str], items: int) -> User:
    features = [row[f"user_feature_{k}"] for k in range(4)]
    liked = [str(item) for item in range(items) if float(row[f"user-item_affinity_{item}"]) > 0]
    attributes: dict[str, Value] = {f"feature_{k}": value[:CODE_CHARS] for k, value in enumerate(features)}
    if liked:
        attributes["liked"] = liked
    return User("+".join(["-".join(value[:SEGMENT_CHARS] for value in features), *liked]), attributes)


def _time_ms(row: dict[str, str]) -> int:
    return int(datetime.fromisoformat(row["timestamp"]).timestamp() * 1_000)


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
