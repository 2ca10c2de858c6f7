"""What a request says of its user and context, as rules compare it."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ranker.rules.item_attributes import number_of
from stream.events.types import Value
from stream.features.page_features import texts_of
from stream.spec.columns import Column


@dataclass(frozen=True)
class RequestValues:
    """A request's user, attributes and context; `columns` are the spec's."""

    columns: Mapping[str, Column]
    user: str
    attributes: Mapping[str, Value]
    context: Mapping[str, Value]

    def value(self, name: str) -> Value | None:
        """The value of a column of user or context, such as user.age, or of its bands; None: the request lacks it."""
        if name == "user.id":
            return self.user
        origin, _, short = name.partition(".")
        given = self.attributes if origin == "user" else self.context
        bands = self.columns[source].bands if (source := name.removesuffix("_band")) in self.columns else []
        if source == name or not bands:
            return given.get(short)
        number = number_of(given.get(short.removesuffix("_band")))
        return None if np.isnan(number) else str(bisect_right(bands, number))

    def has_any(self, name: str, texts: frozenset[str]) -> bool:
        """Whether the column has one of these values."""
        return not texts.isdisjoint(texts_of(self.value(name)))
