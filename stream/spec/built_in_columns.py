"""Columns that needn't be declared: a page has those that its spec uses."""

from collections.abc import Sequence
from typing import Final, Literal

HOUR: Final = "page.hour"  # of the page's event time, "0" to "23"
WEEKDAY: Final = "page.weekday"  # "0" is Monday
NEWEST: Final = ".newest"  # item of a history
RANK: Final = ".rank"  # of an item's number on the page: 1 for the highest


def built_in_columns(histories: Sequence[str], item_numbers: Sequence[str]) -> dict[str, Literal["category", "number"]]:
    """Their types by name, where these are the declared histories and items' numbers.

    >>> [*built_in_columns(["user.history"], ["item.price"])]
    ['user.history.newest', 'page.hour', 'page.weekday', 'item.price.rank']
    """
    categories = [*(history + NEWEST for history in histories), HOUR, WEEKDAY]
    return {**dict.fromkeys(categories, "category"), **dict.fromkeys([name + RANK for name in item_numbers], "number")}
