"""Compares expected labels and organic installs with those that were emitted."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Final

from stream.events.codec import example_id
from stream.events.topics import EVENTS, EXAMPLES, ORGANIC
from stream.events.types import CORRECTIONS, REASONS, RETRACTION, WINDOW_CLOSED, Organic
from thalweg.audit.audit_range import AuditRange, install_back_ms, page_back_ms
from thalweg.audit.emitted import Emitted, EmittedOrganic, location_of
from thalweg.audit.event_scan import Bucket
from thalweg.audit.findings import AuditReport, Difference, JoinerProgress
from thalweg.audit.log_events import InstallEvent, PageEvent
from thalweg.audit.offline_join import Page

# By topic, the faults of a missing and of a surplus organic install.
ORGANIC_FAULTS: Final = {
    ORGANIC.name: ("organic_missing", "organic_surplus"),
    EXAMPLES.name: ("organic_unlearned", "organic_learned"),
}
Row = tuple[Emitted, int]


@dataclass
class Comparison:
    """Counts and names in `report` what is wrong. `progress` None: the log alone decides what is final."""

    report: AuditReport
    range: AuditRange
    progress: Mapping[int, JoinerProgress] | None
    watermarks: Mapping[int, int]  # at each partition's end

    def compare(self, bucket: Bucket, emitted: Iterable[Emitted]) -> None:
        """All pages and examples of a bucket's users."""
        pages: defaultdict[str, list[Page]] = defaultdict(list)
        for joined in bucket.joined:
            self.report.figures["late"] += joined.late
            self.report.figures["repeated_pages"] += joined.repeated
            self.report.figures["extended_pages"] += joined.extended
            for page in joined.pages:
                pages[page.first.request_id].append(page)
        examples_of: defaultdict[str, list[Emitted]] = defaultdict(list)
        for one in emitted:
            examples_of[one.request_id].append(one)
        for request_id, same in pages.items():
            examples = examples_of.pop(request_id, [])
            self._surplus(examples, {item for page in same for item in page.items})
            self._page(same, examples, bucket.install_ids)
        for examples in examples_of.values():
            self._surplus(examples, frozenset())

    def compare_organic(self, bucket: Bucket, emitted: Mapping[str, Iterable[EmittedOrganic]]) -> None:
        """All organic installs of a bucket's users. `emitted`: by topic."""
        rules, back_ms = self.report.rules, install_back_ms(self.report.rules)
        expected = {_organic(one): one for joined in bucket.joined for one in joined.organic}
        wanted_in = {ORGANIC.name: rules.organic, EXAMPLES.name: rules.organic_examples}
        due = {organic: install for organic, install in expected.items() if rules.organic and self._is_due(install)}
        self.report.figures["organic"] += len(due)
        for topic, (missing, surplus) in ORGANIC_FAULTS.items():
            found: dict[Organic, str] = {}
            for one in emitted[topic]:
                found.setdefault(one.organic, one.location)
            for organic, install in due.items() if wanted_in[topic] else ():
                if organic not in found:
                    location = location_of(EVENTS.name, install.partition, install.offset)
                    wanted = f"an organic install ({location})"
                    self.report.add(organic_difference(missing, organic, wanted, f"nothing in `{topic}`"))
            for organic, location in found.items():
                is_certain = self.range.is_certain_anywhere(organic.time_ms - back_ms)
                if is_certain and self.range.is_recent(organic.ingest_ms) and organic not in expected:
                    self.report.add(organic_difference(surplus, organic, "", f"in {location}"))

    def _progress(self, partition: int) -> JoinerProgress:
        return (self.progress or {}).get(partition, JoinerProgress())

    def _is_due(self, install: InstallEvent) -> bool:
        """Whether an organic install must have been emitted by now."""
        rules, back_ms = self.report.rules, install_back_ms(self.report.rules)
        is_recent = self.range.is_recent(install.ingest_ms)
        if not is_recent or not self.range.is_certain(install.partition, install.time_ms - back_ms):
            return False
        if self.progress is None:
            return install.time_ms + rules.life_ms <= self.watermarks[install.partition]
        committed = self._progress(install.partition)
        return committed.unsure_ms + rules.window_ms <= install.time_ms <= committed.finished_ms

    def _page(self, same: list[Page], emitted: list[Emitted], install_ids: Mapping[tuple[str, str], Set[str]]) -> None:
        """Judge a page, if it can be judged. `same`: all pages of its request id, if it was reused later."""
        page, figures, rules = same[0], self.report.figures, self.report.rules
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
        is_final = first.time_ms + rules.life_ms <= self.watermarks[first.partition]
        committed = self._progress(first.partition)
        settled = is_final if self.progress is None else first.time_ms <= committed.finished_ms
        if not settled:
            figures["behind" if is_final else "pending"] += n
        _PageJudgement(self.report, page, settled, first.time_ms <= committed.floor_ms, install_ids).judge(emitted)

    def _surplus(self, emitted: list[Emitted], items: Set[str]) -> None:
        """Find examples of items that aren't on the page; each item counts once."""
        last: dict[str, Row] = {}
        for one in emitted:
            if not items >= set(one.items) and self.range.is_certain_anywhere(one.time_ms):
                for row in range(len(one.ids)):
                    if one.item(row) not in items:
                        last[one.item(row)] = (one, row)
        for one, row in last.values():
            self.report.add(difference_of("surplus", one, row))


@dataclass
class _PageJudgement:
    """One page, all of whose examples were read."""

    report: AuditReport
    page: Page
    settled: bool
    shed: bool  # it may have been closed early
    install_ids: Mapping[tuple[str, str], Set[str]]

    def judge(self, emitted: list[Emitted]) -> None:
        """Compare each item's label, and check each example by itself."""
        if self._is_plain(emitted):
            self.report.figures["settled"] += len(self.page.items) if self.settled else 0
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
        """Whether it is correct and like most pages: no install, one record. This fast path saves most of the time."""
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
            # An early close and a wrong label look the same: counted, not judged.
            self.report.figures["shed"] += 1
        elif self.settled:
            self.report.figures["settled"] += 1
            if fault:
                self._add(fault, part, position, item, rows)
        if net is None:
            return
        if net.digest != part.digest:
            self._add("altered", part, position, item, rows)
        if self._emitted_twice(rows):
            self.report.add(difference_of("emitted_twice", net, last, position))
        for n, (one, row) in enumerate(rows):
            for fault in self._faults(one, row, position, item, n):
                self.report.add(difference_of(fault, one, row, position))

    def _emitted_twice(self, rows: list[Row]) -> bool:
        """Whether there is more than one first label, or a label that repeats the one before it."""
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
        elif self.report.rules.policy == "fake_negative" and reason not in (WINDOW_CLOSED, *CORRECTIONS):
            yield "misnamed"  # every item is a negative first
        causes: Set[str] = {""} if reason == WINDOW_CLOSED else self.install_ids.get((one.user, item), frozenset())
        if all(example_id(one.request_id, position, reason, cause) != one.ids[row] for cause in causes):
            yield "unfounded"
        if one.weights[row] != 1:
            yield "weighed"

    def _add(self, fault: str, part: PageEvent, position: int, item: str, rows: list[Row]) -> None:
        label, location = int(item in self.page.positives), location_of(EVENTS.name, part.partition, part.offset)
        expected = f"label {label} (page in {location})"
        found = _describe(*rows[-1]) if rows else "nothing"
        self.report.add(Difference(fault, part.request_id, position, item, expected, found))


def difference_of(fault: str, one: Emitted, row: int, position: int | None = None) -> Difference:
    """A fault of an example by itself. `position`: on the whole page, where that isn't the one in the example."""
    position = one.positions[row] if position is None else position
    return Difference(fault, one.request_id, position, one.item(row), "", _describe(one, row))


def organic_difference(fault: str, one: Organic, expected: str, found: str) -> Difference:
    """A fault of an organic install."""
    return Difference(fault, one.request_id, -1, one.item, expected, found, f"{one.install_id} of {one.user}")


def _organic(one: InstallEvent) -> Organic:
    return Organic(one.user, one.item, one.time_ms, one.install_id, one.request_id, one.ingest_ms)


def _describe(one: Emitted, row: int) -> str:
    location = location_of(EXAMPLES.name, one.partition, one.offset)
    return f"label {one.labels[row]}, {REASONS[one.reasons[row]]}, in {location}"
