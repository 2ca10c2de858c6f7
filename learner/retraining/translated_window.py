"""The window of the log under a changed spec: pages in its layout, with the statistics that it adds."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec.structs import replace

from learner.retraining.statistics_replay import PageKey, StatisticsReplay, add_missing_rows, page_key
from learner.training.model import Model
from stream.events.codec import decode_training, encode_record
from stream.events.types import Examples, TrainingEvent
from stream.features.page_translation import UNKNOWN, Attributes, PageTranslator
from stream.log.protocol import Record
from stream.runtime.errors import BadEvent
from stream.spec.spec import Spec
from stream.tables.dtypes import U64


@dataclass
class WindowTranslation:
    """Translates records for a model of `spec`, which evolved from `previous`, newest last.

    `attributes`: what is known of users and items besides their pages.
    """

    spec: Spec
    previous: Sequence[Spec]
    attributes: Attributes = UNKNOWN
    _translators: dict[int, PageTranslator] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for old in self.previous:
            translator = PageTranslator(old, self.spec, self.attributes)
            self._translators[translator.old.hash] = translator

    @property
    def computes(self) -> bool:
        """Whether pages lack statistics, which are computed from the records before them."""
        return any(one.computed for one in self._translators.values())

    def translate(self, records: Sequence[Record], live: Model, new: Model | None = None) -> list[Record]:
        """The records, with pages in the spec's layout; `new` gets the rows of statistics that only it has.

        What isn't valid is left out. Begin with the same record each time: statistics begin with nothing there.
        """
        if not self._translators:
            return list(records)
        decoded = [decode_training(record.value or b"")[0] for record in records]
        pages = dict[PageKey, U64]()
        kept = [[event for event in events if self._translate(event, pages)] for events in decoded]
        computed = sorted({k for one in self._translators.values() for k in one.computed})
        if computed:
            statistics = live.statistics
            everything = statistics.table.rows_of(np.array([statistics.program.base_key], np.uint64))
            replay = StatisticsReplay(self.spec, computed, everything)
            replay.run(kept, pages)
            if new is not None:
                add_missing_rows(new.statistics, replay.statistics)
        return [
            record._replace(value=encode_record([_with_features(event, pages) for event in events]))
            for record, events in zip(records, kept, strict=True)
        ]

    def translate_last(self, records: Sequence[Record], first: int, live: Model) -> list[Record]:
        """As `translate`, of records[first:] only; those before are needed where statistics are computed."""
        return self.translate(records, live)[first:] if self.computes else self.translate(records[first:], live)

    def _translate(self, event: TrainingEvent, pages: dict[PageKey, U64]) -> bool:
        """Whether the event is kept; a page's words are added to `pages`."""
        if not isinstance(event, Examples):
            return True
        key, page = page_key(event), event.page
        translator = self._translators.get(int.from_bytes(page.features[:8], "little"))
        if key in pages or translator is None:  # of the spec's own layout, or no page: the encoder says so
            return True
        try:
            pages[key] = translator.translate(page)
        except BadEvent:
            return False
        return True


def _with_features(event: TrainingEvent, pages: dict[PageKey, U64]) -> TrainingEvent:
    words = pages.get(page_key(event)) if isinstance(event, Examples) else None
    if words is None or not isinstance(event, Examples):
        return event
    return replace(event, page=replace(event.page, features=words.tobytes()))
