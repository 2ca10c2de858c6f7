"""One record through the join: what has to be written for it, and what is to be counted. Pure but for histories."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from stream.dead_letters import Outgoing, dead_letter
from stream.errors import Poisoned
from stream.events import Impression, encode, encode_record
from stream.joiner.join import Joiner
from stream.joiner.labels import LabelBatch, examples_bytes
from stream.joiner.metrics import Tally
from stream.joiner.output_records import history_record, label_records, organic_records
from stream.joiner.raw_impression import JoinEvent, RawImpression, read_record
from stream.log import Record
from stream.topics import EXAMPLES, HISTORIES, ORGANIC

if TYPE_CHECKING:
    from stream.histories import HistoryWriter  # redis: loaded by whoever has one

POISON_MIN: Final = 20  # so many bad records in a row are more than chance

log = logging.getLogger(__name__)
_time: Final = attrgetter("time_ms")


@dataclass(frozen=True)
class ShellRules:
    """How the shell behaves; what labels are is in LabelRules."""

    commit_every_ms: int = 250
    idle_ms: int = 500  # a partition that is read to its end and silent for so long is ticked
    ahead_ms_max: int = 60_000  # an event may be this far after its own arrival; further is a dead letter
    accept_gap: bool = False  # go on when records between commit and log start are gone
    model: str = ""  # the spec's name: told in commits
    poison_s: float = 60.0  # stop when nothing but what can't be taken in has come for so long; 0: never


class PoisonWatch:
    """Notices a source that sends nothing good any more: a producer that broke must not drain into dead letters."""

    def __init__(self, after_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._after_s = after_s
        self._clock = clock
        self._since: float | None = None
        self._count = 0

    def saw(self, good: bool, bad: bool) -> None:
        """A record with events of either kind. Raises Poisoned."""
        if good:
            self._since, self._count = None, 0
        if good or not bad or not self._after_s:
            return
        now = self._clock()
        self._since = now if self._since is None else self._since
        self._count += 1
        if now - self._since >= self._after_s and self._count >= POISON_MIN:
            raise Poisoned(
                f"nothing but events that can't be taken in for {now - self._since:.0f} s ({self._count} records); "
                "`thalweg dlq show` tells why. Mend the producer, then start again; or let all of them become dead "
                "letters with THALWEG_JOINER_POISON_S=0"
            )


class RecordProcessor:
    """Takes records of one worker's partitions, one by one."""

    def __init__(
        self, shell: ShellRules, partitions: dict[str, int], histories: "HistoryWriter | None", tally: Tally
    ) -> None:
        self._shell = shell
        self._partitions = partitions
        self._histories = histories
        self._tally = tally
        self._poison = PoisonWatch(shell.poison_s)
        self._shed: dict[int, int] = {}  # by partition: pages closed early when that was last looked at

    def take(self, joiner: Joiner, record: Record) -> list[Outgoing]:
        """Everything that has to be written because of this record, in order. Raises Poisoned."""
        return [outgoing for part in self.parts(joiner, record) for outgoing in part]

    def parts(self, joiner: Joiner, record: Record) -> Iterator[list[Outgoing]]:
        """The same in parts, one at least: a record that closes very many pages isn't written at once."""
        events, bad = read_record(record.value or b"")
        latest_ms = record.time_ms + self._shell.ahead_ms_max
        ahead: list[JoinEvent] = []
        if events and max(map(_time, events)) > latest_ms:
            ahead = [event for event in events if event.time_ms > latest_ms]
            events = [event for event in events if event.time_ms <= latest_ms]
        counts = joiner.counts
        shed, pages, installs = counts.shed, counts.pages, counts.installs
        told: list[LabelBatch] = []
        outgoing: list[Outgoing] = []
        for n, part in enumerate(joiner.parts(events, record.offset, record.time_ms)):
            if n:
                self._tally.add(0, 0, 0, told)
                yield outgoing
            told = part
            organic = joiner.organic if joiner.rules.organic_examples else ()
            outgoing = label_records(told, self._partitions[EXAMPLES.name], organic=organic)
            if joiner.organic:
                outgoing += organic_records(joiner.organic, self._partitions[ORGANIC.name])
        if counts.shed != shed:
            self._alarm(record.partition, joiner)
        pages, installs = counts.pages - pages, counts.installs - installs
        for installed in joiner.installed:
            outgoing.append(history_record(installed, self._partitions[HISTORIES.name]))
            if self._histories is not None:
                self._histories.put(*installed)
        if bad or ahead:
            outgoing += [dead_letter(raw, "BadEvent", why, record) for raw, why in bad]
            outgoing += [dead_letter(*_from_the_future(event, record), record) for event in ahead]
        self._poison.saw(bool(pages or installs), bool(bad or ahead))
        self._tally.add(pages, installs, len(events) - pages - installs, told)
        if bad or ahead:
            self._tally.add_letters(len(bad), len(ahead))
        yield outgoing

    def _alarm(self, partition: int, joiner: Joiner) -> None:
        """Say that pages close early, at the first one and at each doubling."""
        before, shed = self._shed.get(partition, 0), joiner.counts.shed
        self._shed[partition] = shed
        if not before or shed < before or shed.bit_length() > before.bit_length():
            log.error(
                "partition %d: %d pages were closed before their time, because open pages fill the memory that they "
                "may have: raise THALWEG_JOINER_MEMORY_MB, shorten the window, or start more workers",
                partition,
                shed,
            )


def warm_up() -> None:
    """Load the kernels that a record goes through: the first one must not wait for them."""
    events, _ = read_record(encode_record([Impression("r", 1, "u", ["a"]), Impression("s", 1, "u", ["a"])]))
    examples_bytes([LabelBatch(event, None, 1) for event in events if isinstance(event, RawImpression)])


def _from_the_future(event: JoinEvent, record: Record) -> tuple[bytes, str, str]:
    """An event that would throw the watermark forward: its bytes, the error, and why."""
    raw = event.raw if isinstance(event, RawImpression) else encode(event)
    return (
        raw,
        "FromTheFuture",
        f"event time {event.time_ms} ms is {event.time_ms - record.time_ms} ms after its arrival",
    )
