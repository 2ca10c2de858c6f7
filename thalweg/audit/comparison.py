"""What should be against what was emitted, a page at a time."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from stream.events.codec import example_id
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import LATE_POSITIVE, REASONS, RETRACTION, WINDOW_CLOSED
from thalweg.audit.audit_range import AuditRange, page_back_ms
from thalweg.audit.emitted import Emitted, place_of
from thalweg.audit.event_scan import Bucket
from thalweg.audit.findings import Audit, Difference, Progress, of_partition
from thalweg.audit.log_events import PageEvent
from thalweg.audit.offline_join import Page

CORRECTIONS = (LATE_POSITIVE, RETRACTION)
Row = tuple[Emitted, int]


@dataclass
class Comparison:
    """Counts and names what is wrong in `audit`. `progress` None: the log alone decides what is finished."""

    audit: Audit
    range: AuditRange
    progress: Mapping[int, Progress] | None
    watermarks: Mapping[int, int]  # at each partition's end

    def take(self, bucket: Bucket, emitted: Iterable[Emitted]) -> None:
        """All pages and examples of some users."""
        pages: defaultdict[str, list[Page]] = defaultdict(list)
        for joined in bucket.joined:
            for page in joined.pages:
                pages[page.first.request_id].append(page)
        of_page: defaultdict[str, list[Emitted]] = defaultdict(list)
        for one in emitted:
            of_page[one.request_id].append(one)
        for request_id, same in pages.items():
            examples = of_page.pop(request_id, [])
            self._surplus(examples, {item for page in same for item in page.items})
            self._page(same, examples, bucket.install_ids)
        for examples in of_page.values():
            self._surplus(examples, frozenset())

    def _page(self, same: list[Page], emitted: list[Emitted], install_ids: Mapping[tuple[str, str], Set[str]]) -> None:
        """Judge a page, if it can be judged. `same`: all pages of its request id, if it was used again later."""
        page, figures, rules = same[0], self.audit.figures, self.audit.rules
        first, n = page.first, len(page.items)
        if not self.range.is_recent(first.ingest_ms):
            return
        if not self.range.is_certain(first.partition, first.time_ms - page_back_ms(rules)):
            figures["unsure"] += n
            return
        if len(same) > 1:
            figures["reused"] += sum(len(one.items) for one in same)
            return
        figures["labels"] += n
        figures["positives"] += len(page.positives)
        watermark_ms = self.watermarks[first.partition]
        finished = first.time_ms + rules.life_ms <= watermark_ms
        committed = of_partition(self.progress, first.partition)
        settled = finished if self.progress is None else first.time_ms <= committed.finished_ms
        if not settled:
            figures["behind" if finished else "pending"] += n
        judgement = _PageJudgement(self.audit, page, settled, first.time_ms <= committed.floor_ms, install_ids)
        judgement.judge(emitted)

    def _surplus(self, emitted: list[Emitted], items: Set[str]) -> None:
        """Examples of items that the page hasn't, an item once."""
        last: dict[str, Row] = {}
        for one in emitted:
            if not items >= set(one.items) and self.range.is_certain_anywhere(one.time_ms):
                for row in range(len(one.ids)):
                    if one.item(row) not in items:
                        last[one.item(row)] = (one, row)
        for one, row in last.values():
            self.audit.found(difference_of("surplus", one, row))


@dataclass
class _PageJudgement:
    """One page, all of whose examples were read."""

    audit: Audit
    page: Page
    settled: bool
    shed: bool  # it may have been closed early
    install_ids: Mapping[tuple[str, str], Set[str]]

    def judge(self, emitted: list[Emitted]) -> None:
        """Compare each item's label, and each example with what it must be."""
        if self._is_plain(emitted):
            self.audit.figures["settled"] += len(self.page.items) if self.settled else 0
            return
        rows: defaultdict[str, list[Row]] = defaultdict(list)
        ids: set[tuple[int, str]] = set()
        for one in emitted:
            for row, id_ in enumerate(one.ids):
                item = one.item(row)
                if (id_, item) not in ids:
                    ids.add((id_, item))
                    rows[item].append((one, row))
        position = 0
        for part, added in zip(self.page.parts, self.page.added, strict=True):
            for item in added:
                self._item(part, position, item, rows[item])
                position += 1

    def _is_plain(self, emitted: list[Emitted]) -> bool:
        """As most pages are: nothing installed, all emitted at once, as it must be. Spares most of the time."""
        one, page = emitted[0] if len(emitted) == 1 else None, self.page
        if one is None or page.positives or len(page.parts) > 1 or one.digest != page.first.digest:
            return False
        n = len(page.items)
        return (
            one.positions == list(range(n))
            and one.labels == [0] * n
            and one.weights == [1.0] * n
            and one.reasons == [WINDOW_CLOSED] * n
            and one.ids == [example_id(one.request_id, position, WINDOW_CLOSED, "") for position in range(n)]
        )

    def _item(self, part: PageEvent, position: int, item: str, rows: list[Row]) -> None:
        label = int(item in self.page.positives)
        net, last = rows[-1] if rows else (None, 0)
        fault = "missing" if net is None else "wrong" if net.labels[last] != label else ""
        if self.settled and fault and self.shed:
            # What was closed early can't be told from what is wrong: it is counted, and said.
            self.audit.figures["shed"] += 1
        elif self.settled:
            self.audit.figures["settled"] += 1
            if fault:
                self._found(fault, part, position, item, label, net, last)
        if net is None:
            return
        if net.digest != part.digest:
            self._found("altered", part, position, item, label, net, last)
        if self._emitted_twice(rows):
            self.audit.found(difference_of("emitted_twice", net, last, position))
        for n, (one, row) in enumerate(rows):
            for fault in self._faults(one, row, position, item, n):
                self.audit.found(difference_of(fault, one, row, position))

    def _emitted_twice(self, rows: list[Row]) -> bool:
        """More than one first label, or a label emitted that was the last one emitted."""
        if len(rows) == 1:
            return False
        labels = [one.labels[row] for one, row in rows]
        firsts = sum(one.reasons[row] not in CORRECTIONS for one, row in rows)
        return firsts > 1 or any(labels[k] == labels[k - 1] for k in range(1, len(labels)))

    def _faults(self, one: Emitted, row: int, position: int, item: str, n: int) -> Iterator[str]:
        """What is wrong with the n-th example of an item by itself."""
        reason, label = one.reasons[row], one.labels[row]
        if (reason in (WINDOW_CLOSED, RETRACTION)) != (label == 0) or (reason in CORRECTIONS and n == 0):
            yield "misnamed"
        elif self.audit.rules.policy == "fake_negative" and reason not in (WINDOW_CLOSED, *CORRECTIONS):
            yield "misnamed"  # every item is a negative first
        causes: Set[str] = {""} if reason == WINDOW_CLOSED else self.install_ids.get((one.user, item), frozenset())
        if all(example_id(one.request_id, position, reason, cause) != one.ids[row] for cause in causes):
            yield "unfounded"
        if one.weights[row] != 1:
            yield "weighed"

    def _found(
        self, fault: str, part: PageEvent, position: int, item: str, label: int, net: Emitted | None, row: int
    ) -> None:
        expected = f"label {label} (page in {place_of(EVENTS.name, part.partition, part.offset)})"
        found = "nothing" if net is None else spoken(net, row)
        self.audit.found(Difference(fault, part.request_id, position, item, expected, found))


def difference_of(fault: str, one: Emitted, row: int, position: int | None = None) -> Difference:
    """A fault of an example by itself. `position`: on the whole page, where that isn't the one in the example."""
    place = one.positions[row] if position is None else position
    return Difference(fault, one.request_id, place, one.item(row), "", spoken(one, row))


def spoken(one: Emitted, row: int) -> str:
    """An example, for a person."""
    place = place_of(EXAMPLES.name, one.partition, one.offset)
    return f"label {one.labels[row]}, {REASONS[one.reasons[row]]}, in {place}"


def count_joined(figures: Counter[str], bucket: Bucket) -> None:
    """What counts for nothing, and what extends a page."""
    for joined in bucket.joined:
        figures["late"] += joined.late
        figures["repeated_pages"] += joined.repeated
        figures["extended_pages"] += joined.extended
