"""Erases a user: writes the event, and follows it until joiner, Redis and model have applied it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from rich.table import Table

from stream.events.codec import decode_entity, decode_training, encode_record
from stream.events.personal_data import PLACES
from stream.events.topics import ERASED, EVENTS, EXAMPLES, USERS
from stream.events.types import Erase
from stream.history.erasing import read_erased
from stream.history.histories import history_key
from stream.history.profiles import user_key
from stream.log.format_level import check_erasable
from stream.log.protocol import END, Log, Reader, partition_of
from stream.snapshots.store import SnapshotStore

POLL_S: Final = 0.05
JOINER, PROFILE, EXAMPLE, MODEL = "joiner", "profile in Redis", "examples", "model"


@dataclass
class Receipt:
    """What an erasure has reached: milliseconds from its acknowledgement, by step; None: not in time."""

    event: Erase
    reached_ms: dict[str, int | None] = field(default_factory=dict)
    version: int = 0  # the first that has learned it

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        places = [{"place": one.place, "data": one.data, "removed": one.removed} for one in PLACES]
        found = {"user": self.event.user, "time_ms": self.event.time_ms, "version": self.version, "places": places}
        return found | {f"{step.replace(' ', '_').lower()}_ms": ms for step, ms in self.reached_ms.items()}

    def table(self) -> Table:
        """Where the user's data was, and when it goes."""
        said = [f"{step}: {'not yet' if ms is None else f'{ms} ms'}" for step, ms in self.reached_ms.items()]
        table = Table("place", "data", "removed", title=f"user {self.event.user} erased up to {self.event.time_ms}",
                      caption="; ".join(said), title_justify="left", caption_justify="left")  # fmt: skip
        for one in PLACES:
            table.add_row(one.place, one.data, one.removed)
        return table


def write_erasure(log: Log, event: Erase) -> None:
    """Write the event, and the tombstone in `users`. Raises LogError, also where the topic `erased` doesn't exist."""
    user = event.user
    check_erasable(log.partitions)
    log.send(USERS.name, partition_of(user, log.partitions(USERS.name)), None, user.encode())
    log.send(EVENTS.name, partition_of(user, log.partitions(EVENTS.name)), encode_record([event]))
    log.flush()


def erase(log: Log, event: Erase, client: Any, store: SnapshotStore | None, prefix: str, wait_s: float) -> Receipt:
    """Write the event and wait until everything has applied it, `wait_s` at most. `client`: a redis.Redis or None.

    Raises LogError, RedisError, StoreUnavailable.
    """
    ends = log.ends(EXAMPLES.name)
    with closing(log.reader(ERASED.name, {0: END})) as ledger, closing(log.reader(EXAMPLES.name, ends)) as examples:
        ledger.poll(0.0)  # its position is the end of now
        write_erasure(log, event)
        began_s = time.monotonic()
        receipt = Receipt(event)
        offsets: dict[int, int] = {}  # after it, in `examples`, by partition
        steps: dict[str, Callable[[], bool]] = {
            JOINER: lambda: _is_in_ledger(ledger, event),
            EXAMPLE: lambda: _find_example(examples, event, offsets),
        }
        if client is not None:
            steps[PROFILE] = lambda: _is_profile_gone(client, event, prefix)
        if store is not None:
            steps[MODEL] = lambda: _is_learned(store, offsets, receipt)
        receipt.reached_ms = dict.fromkeys(steps)
        while None in receipt.reached_ms.values() and time.monotonic() < began_s + wait_s:
            for step, is_reached in steps.items():
                if receipt.reached_ms[step] is None and is_reached():
                    receipt.reached_ms[step] = round((time.monotonic() - began_s) * 1_000)
        return receipt


def erase_again(log: Log) -> Iterator[Erase]:
    """Write each erasure of the ledger once more, with its own time: after a backup was restored. Raises LogError."""
    for user, time_ms in read_erased(log).items():
        event = Erase(user, time_ms)
        write_erasure(log, event)
        yield event


def _is_in_ledger(reader: Reader, event: Erase) -> bool:
    return any(decode_entity(record.value or b"", Erase) == event for record in reader.poll(POLL_S))


def _find_example(reader: Reader, event: Erase, offsets: dict[int, int]) -> bool:
    for record in reader.poll(POLL_S):
        if event in decode_training(record.value or b"")[0]:
            offsets[record.partition] = record.offset + 1
    return bool(offsets)


def _is_profile_gone(client: Any, event: Erase, prefix: str) -> bool:
    installs = client.zcount(history_key(event.user, prefix), "-inf", event.time_ms)
    return not installs and not client.exists(user_key(event.user, prefix))


def _is_learned(store: SnapshotStore, offsets: Mapping[int, int], receipt: Receipt) -> bool:
    """Whether the live version has learned it; then the receipt names that version."""
    head = store.head() if offsets else None
    if head is None:
        return False
    learned = store.manifest(head.version).offset
    is_learned = all(learned.get(partition, 0) >= offset for partition, offset in offsets.items())
    receipt.version = head.version if is_learned else 0
    return is_learned
