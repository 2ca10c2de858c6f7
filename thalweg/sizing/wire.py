"""Bytes of a page in the log, by really encoding one."""

from dataclasses import replace
from itertools import cycle, islice
from typing import Final

import numpy as np

from stream.events.codec import encode_record
from stream.events.types import Examples, Impression, Item, Value
from stream.features.page_features import Catalogue, Layout, build_page
from stream.joiner.label_rules import label_rules
from stream.spec.spec import Spec
from thalweg.sizing.load import Load

BATCH_BYTES: Final = 100  # Kafka's, around a record that comes alone: batch, key, lengths
TIME_MS: Final = 1_800_000_000_000


def page_of(spec: Spec, load: Load) -> Impression:
    """A page with features as a ranker logs them: ids of a dozen characters, a UUID as its request's."""
    layout, columns = Layout(spec), spec.columns()

    def values_of(origin: str) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for name, one in columns.items():
            if name.startswith(origin + ".") and not (one.of or name.endswith(("_band", ".id"))):
                texts = [f"value {n:05d}" for n in range(round(load.length(spec, name)))]
                found[name.partition(".")[2]] = (
                    texts if one.type == "categories" else texts[0] if one.type == "category" else 1.0
                )
        return found

    catalogue, items = Catalogue(layout), [f"item-{n:07d}" for n in range(load.page_items)]
    for item in items:
        catalogue.put(Item(item, values_of("item")))
    last = round(load.length(spec, layout.history)) if layout.history else 0
    context = {name: value for name, value in values_of("context").items() if isinstance(value, str | float)}
    history = list(islice(cycle(items), last))
    user = layout.user("user-0000001", values_of("user"), history, context)
    words = build_page(layout, user, catalogue, catalogue.rows(items), TIME_MS)
    scores = [0.123456789] * len(items)
    return Impression(
        "0" * 36, TIME_MS, "user-0000001", items, "control", 10**6, scores, [], words.tobytes(), context
    )  # fmt: skip


def event_bytes(spec: Spec, load: Load) -> float:
    """Of a page in `events`, with its share of a record; installs are small and rare."""
    return len(encode_record([page_of(spec, load)])) + BATCH_BYTES / load.record_pages


def example_bytes(spec: Spec, load: Load) -> float:
    """Of a page's labels in `examples`; a page that is labelled twice is there twice."""
    page, n = page_of(spec, load), load.page_items
    ids, ones = np.full(n, 2**63).tolist(), [1] * n
    labelled = Examples(page, ids, list(range(n)), ones, [0.1] * n, ones, [TIME_MS] * n)
    return len(encode_record([labelled])) * copies(spec, load) + BATCH_BYTES / load.record_pages


def copies(spec: Spec, load: Load) -> float:
    """How many times a page is emitted: where negatives and positives come apart, those with an install twice."""
    has_install: float = 1 - (1 - load.installs_share) ** load.page_items
    return 1.0 if label_rules(spec).policy == "wait" else 1.0 + has_install


def examples_s(spec: Spec, load: Load) -> float:
    """Examples a second: the items shown and, where negatives come first, each positive once more."""
    return load.shown_s + (load.installs_s if spec.label.are_negatives_early else 0.0)


def share_of(load: Load, parts: int) -> Load:
    """One of this number of equal parts of the users and their pages; all have the same items."""
    return replace(load, pages_s=load.pages_s / parts, users=max(1, load.users // parts))
