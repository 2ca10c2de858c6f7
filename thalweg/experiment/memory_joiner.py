"""The joiner on a MemoryLog: its record processor without Faust, commits and restarts."""

from collections.abc import Sequence

from stream.events.topics import EVENTS, EXAMPLES, HISTORIES, ORGANIC
from stream.joiner.join import Joiner
from stream.joiner.label_rules import LabelRules
from stream.joiner.labels import raw_pages
from stream.joiner.metrics import Tally
from stream.joiner.output_records import output_records
from stream.joiner.poison_detector import PoisonDetector
from stream.joiner.record_processor import JoinerOptions, PartitionState, RecordProcessor
from stream.log.memory_log import MemoryLog
from stream.log.protocol import Record

RECORDS_MAX = 10_000


class MemoryJoiner:
    """Joins partition 0 of `events`; writes all that the joiner's service would."""

    def __init__(self, log: MemoryLog, rules: LabelRules) -> None:
        names = (EVENTS.name, EXAMPLES.name, HISTORIES.name, ORGANIC.name)
        self._log, self._partitions = log, {name: log.partitions(name) for name in names}
        self._processor = RecordProcessor(JoinerOptions(), self._partitions, None, Tally())
        self._reader = log.reader(EVENTS.name, {0: 0})
        self.state = PartitionState(Joiner(rules), 0, 0, PoisonDetector(0.0))

    def step(self) -> None:
        """Join all records that wait; the log drops those that are no longer needed."""
        state = self.state
        while records := self._reader.poll(0.0, RECORDS_MAX):
            self._join(records)
            oldest = state.joiner.oldest_needed_offset()
            needed = state.next_offset if oldest is None else oldest
            state.cache.trim(needed)
            self._log.truncate(EVENTS.name, 0, needed)

    def _join(self, records: Sequence[Record]) -> None:
        for group in self._processor.process(self.state, records):
            if group is None:
                continue
            pages = raw_pages(group.labels, self.state.cache) if group.labels else []
            for one in output_records(group, self._partitions, pages, 0):
                self._log.send(one.topic, one.partition, one.value, one.key)
