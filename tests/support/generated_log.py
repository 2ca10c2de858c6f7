"""A log of any length that holds nothing: each record is made when it is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stream.events.codec import encode_record, example_id
from stream.events.topics import EVENTS
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression, Install, Tick
from stream.log.protocol import END, START, Record
from thalweg.audit.rules import AuditRules

T = 1_700_000_000_000
BLOCK = 64  # pages of a record


@dataclass
class GeneratedLog:
    """`pages` of ten items, one every `step_ms`; every twentieth has an install in the middle of its window.

    What the joiner emits stands in `examples`, a record for each record of pages; of policy `wait`. `again`: the whole
    of it once more, as after a restart.
    """

    pages: int
    window_ms: int
    step_ms: int = 100
    again: bool = False
    rules: AuditRules = field(init=False)

    def __post_init__(self) -> None:
        self.rules = AuditRules("wait", self.window_ms, lateness_ms=1_000)
        self.blocks = -(-self.pages // BLOCK)
        self.delay = self.window_ms // self.step_ms // BLOCK  # blocks from a page to its window's end

    def ends(self, topic: str) -> dict[int, int]:
        """A block a record; at the end of `events`, what ends the last pages' life."""
        return {0: self.blocks + self.delay + 2 if topic == EVENTS.name else self.blocks * (1 + self.again)}

    def starts(self, topic: str) -> dict[int, int]:
        """Nothing is gone."""
        return {0: 0}

    def offsets_at(self, topic: str, time_ms: int) -> dict[int, int]:
        """The first record appended then or later."""
        late = 0 if topic == EVENTS.name else self.delay + 1
        block = (time_ms - T) // (BLOCK * self.step_ms) - late
        return {0: min(max(block, 0), self.ends(topic)[0])}

    def reader(self, topic: str, positions: Mapping[int, int]) -> "GeneratedReader":
        """A reader from this offset on."""
        return GeneratedReader(self, topic, positions[0])

    def time_of(self, block: int) -> int:
        """When a block of pages is appended."""
        return T + block * BLOCK * self.step_ms

    def record(self, topic: str, offset: int) -> Record:
        """The record at an offset."""
        if topic == EVENTS.name:
            return Record(topic, 0, offset, self.time_of(offset + 1), None, self._events(offset))
        block = offset % self.blocks
        return Record(topic, 0, offset, self.time_of(offset + self.delay + 1), None, self._examples(block))

    def page(self, number: int) -> Impression:
        """A page of one of 20,000 users."""
        items = [f"item-{(number * 7 + k * 13) % 5_000}" for k in range(10)]
        return Impression(f"request-{number:012}", T + number * self.step_ms, f"user-{number % 20_000}", items)

    def install(self, number: int) -> Install | None:
        """The install that came of a page."""
        if number % 20 or not 0 <= number < self.pages:
            return None
        page = self.page(number)
        return Install(
            page.user, page.items[number % 10], page.time_ms + self.window_ms // 2, f"i{number}", page.request_id
        )

    def _events(self, block: int) -> bytes:
        now_ms = self.time_of(block + 1)
        events: list[Impression | Install | Tick] = [self.page(n) for n in self._numbers(block)]
        events += [found for n in self._numbers(block - self.delay // 2 - 1) if (found := self.install(n))]
        return encode_record([*events, Tick(now_ms)])

    def _numbers(self, block: int) -> range:
        return range(max(0, block * BLOCK), min((block + 1) * BLOCK, self.pages))

    def _examples(self, block: int) -> bytes:
        ingest_ms = self.time_of(block + self.delay + 2)
        return encode_record([self._of_page(n, ingest_ms) for n in self._numbers(block)])

    def _of_page(self, number: int, ingest_ms: int) -> Examples:
        page, install = self.page(number), self.install(number)
        labels = [int(install is not None and item == install.item) for item in page.items]
        reasons = [INSTALLED if label else WINDOW_CLOSED for label in labels]
        cause = install.install_id if install else ""
        ids = [example_id(page.request_id, k, reasons[k], cause if labels[k] else "") for k in range(len(labels))]
        return Examples(page, ids, list(range(len(ids))), labels, [1.0] * len(ids), reasons, [ingest_ms] * len(ids))


class GeneratedReader:
    """Reads the one partition of a GeneratedLog."""

    def __init__(self, log: GeneratedLog, topic: str, offset: int) -> None:
        self._log, self._topic = log, topic
        self._end = log.ends(topic)[0]
        self._offset = {START: 0, END: self._end}.get(offset, offset)

    def poll(self, timeout_s: float, records_max: int = 500) -> list[Record]:
        """The next records."""
        until = min(self._end, self._offset + 16)
        records = [self._log.record(self._topic, offset) for offset in range(self._offset, until)]
        self._offset = until
        return records

    def positions(self) -> dict[int, int]:
        """The next offset."""
        return {0: self._offset}

    def close(self) -> None:
        """Nothing is open."""
