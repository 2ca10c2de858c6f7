"""Texts of hashed values: an id can't be inverted, but the ids of known texts can be computed."""

from collections.abc import Mapping, Sequence

from stream.events.types import Item, User, Value
from stream.features.page_features import Layout, id_of, texts_of
from stream.spec.built_in_columns import HOUR, WEEKDAY


class ValueNames:
    """The values of a layout's categories, `values`: by column, then by id.

    Bands, hours and weekdays are known; what items, users and contexts say is added.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.values: dict[str, dict[int, str]] = {name: {} for name in (*layout.user_lists, *layout.item_lists)}
        for name, column in layout.columns.items():
            if column.bands:
                self._add_bands(f"{name}_band", column.bands)
        for name, count in ((HOUR, 24), (WEEKDAY, 7)):
            if name in self.values:
                self.values[name] = {id_of(layout.seeds[name], str(value)): str(value) for value in range(count)}
        self._of_items = [name for name in self.values if layout.seeds[name] == layout.seeds["item.id"]]

    def add_item(self, item: Item) -> None:
        """Add an item's values."""
        self.add_title(item)
        self._add_attributes("item", item.attributes)

    def add_title(self, item: Item) -> None:
        """Add an item's id, with the title: a value of the history and its newest too."""
        shown = f"{item.item} {item.title}".strip()
        for name in self._of_items:
            self.values[name][id_of(self.layout.seeds[name], item.item)] = shown

    def add_user(self, user: User) -> None:
        """Add a user's values."""
        self.add("user.id", user.user)
        self._add_attributes("user", user.attributes)

    def add_context(self, context: Mapping[str, Value]) -> None:
        """Add the values of a request's context."""
        self._add_attributes("context", context)

    def add(self, column: str, text: str) -> None:
        """Add a value, if the layout has the column as a category."""
        if column in self.values:
            self.values[column][id_of(self.layout.seeds[column], text)] = text

    def text(self, column: str, value: int) -> str:
        """The text of a column's id; the id in hexadecimal digits where no known text has it."""
        return self.values[column].get(value) or f"{value:016x}"

    def _add_attributes(self, origin: str, attributes: Mapping[str, Value]) -> None:
        for key, value in attributes.items():
            for text in texts_of(value):
                self.add(f"{origin}.{key}", text)

    def _add_bands(self, name: str, bands: Sequence[float]) -> None:
        edges = ["", *(f"{band:g}" for band in bands), ""]
        for band in range(len(bands) + 1):
            self.values[name][id_of(self.layout.seeds[name], str(band))] = f"[{edges[band]}, {edges[band + 1]})"
