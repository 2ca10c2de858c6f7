"""Erases a user: writes the event, and follows it until joiner, Redis and model have applied it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from rich.table import Table

from stream.events.codec import decode_ledger, decode_training, encode_record
from stream.events.personal_data import PLACES
from stream.events.topics import ERASED, EVENTS, EXAMPLES, USERS
from stream.events.types import Erase, Removal
from stream.history.erasing import read_erased
from stream.history.histories import history_key
from stream.history.profiles import user_key
from stream.log.format_level import check_erasable
from stream.log.protocol import END, Log, Reader, partition_of
from stream.runtime.errors import BadEvent
from stream.snapshots.store import SnapshotStore

POLL_S: Final = 0.05
JOINER, PROFILE, EXAMPLE, MODEL, ROWS = "joiner", "profile in Redis", "examples", "model", "rows"


@dataclass
class Receipt:
    """What an erasure has reached: milliseconds from its acknowledgement, by step; None: not in time.

    `removed`: how much of it there was. `pinned`: a version from before it that rankers serve nevertheless; 0: none.
    """

    event: Erase
    reached_ms: dict[str, int | None] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    model: str = ""
    version: int = 0  # the first that has learned it
    pinned: int = 0

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        places = [{"place": one.place, "data": one.data, "removed": one.removed} for one in PLACES]
        found = {"user": self.event.user, "time_ms": self.event.time_ms, "version": self.version}
        found |= {"pinned": self.pinned, "removed": self.removed, "places": places}
        return found | {f"{step.replace(' ', '_').lower()}_ms": ms for step, ms in self.reached_ms.items()}

    def table(self) -> Table:
        """Where the user's data was, and when it goes."""
        said = [f"{step}: {'not yet' if ms is None else f'{ms} ms'}" for step, ms in self.reached_ms.items()]
        said += [f"{what}: {count} removed" for what, count in self.removed.items()]
        table = Table("place", "data", "removed", title=f"user {self.event.user} erased up to {self.event.time_ms}",
                      caption="; ".join(said), title_justify="left", caption_justify="left")  # fmt: skip
        for one in PLACES:
            table.add_row(one.place, one.data, one.removed)
        return table

    def warning(self) -> str:
        """What a person must do for it to take effect; empty: nothing."""
        if not self.pinned:
            return ""
        return (
            f"version {self.pinned} is pinned, has not learned the erasure, and is what rankers serve: until "
            "`thalweg snapshots unpin` the user's rows are used"
        )


def write_erasure(log: Log, event: Erase) -> None:
    """Write the event, and the tombstone in `users`. Raises LogError, also where the topic `erased` doesn't exist."""
    user = event.user
    check_erasable(log.partitions)
    log.send(USERS.name, partition_of(user, log.partitions(USERS.name)), None, user.encode())
    log.send(EVENTS.name, partition_of(user, log.partitions(EVENTS.name)), encode_record([event]))
    log.flush()


def erase(log: Log, event: Erase, client: Any, store: SnapshotStore | None, prefix: str, wait_s: float) -> Receipt:
    """Write the event and wait until everything has applied it, `wait_s` at most. `client`: a redis.Redis or None.

    Raises LogError, RedisError, StoreUnavailable, BadSnapshot.
    """
    ends, offsets = log.ends(EXAMPLES.name), dict[int, int]()  # after it, in `examples`, by partition
    live = store.head() if store is not None else None
    before = live.version if live else 0  # whatever offset it has: it may be one of a log that was lost
    receipt = Receipt(event, removed=_profile(client, event.user, prefix) if client is not None else {})
    with closing(log.reader(ERASED.name, {0: END})) as reader, closing(log.reader(EXAMPLES.name, ends)) as examples:
        reader.poll(0.0)  # its position is the end of now
        ledger = _Ledger(reader)
        write_erasure(log, event)
        steps: dict[str, Callable[[], bool]] = {
            JOINER: lambda: event in ledger.read(),
            EXAMPLE: lambda: _find_example(examples, event, offsets),
        }
        if client is not None:
            steps[PROFILE] = lambda: _is_profile_gone(client, event, prefix)
        if store is not None:
            steps[MODEL] = lambda: _is_learned(store, offsets, receipt, before)
            steps[ROWS] = lambda: _is_removed(ledger.read(), receipt)
        receipt.reached_ms = dict.fromkeys(steps)
        began_s = time.monotonic()
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


def _profile(client: Any, user: str, prefix: str) -> dict[str, int]:
    """What Redis has of the user."""
    return {
        "attributes": client.exists(user_key(user, prefix)), "installs": client.zcard(history_key(user, prefix))
    }  # fmt: skip


class _Ledger:
    """What the ledger says from where the reader began."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._found: list[Erase | Removal] = []

    def read(self) -> list[Erase | Removal]:
        """All of it by now."""
        for record in self._reader.poll(POLL_S):
            with suppress(BadEvent):  # not written by us
                self._found.append(decode_ledger(record.value or b""))
        return self._found


def _is_removed(ledger: Sequence[Erase | Removal], receipt: Receipt) -> bool:
    """Whether the learner has said which rows it removed; then the receipt has them."""
    wanted = receipt.event.user, receipt.event.time_ms, f"learner {receipt.model}"
    for one in ledger:
        if isinstance(one, Removal) and (one.user, one.time_ms, one.room) == wanted:
            receipt.removed |= one.counts
            return True
    return False


def _find_example(reader: Reader, event: Erase, offsets: dict[int, int]) -> bool:
    for record in reader.poll(POLL_S):
        if event in decode_training(record.value or b"")[0]:
            offsets[record.partition] = record.offset + 1
    return bool(offsets)


def _is_profile_gone(client: Any, event: Erase, prefix: str) -> bool:
    installs = client.zcount(history_key(event.user, prefix), "-inf", event.time_ms)
    return not installs and not client.exists(user_key(event.user, prefix))


def _is_learned(store: SnapshotStore, offsets: Mapping[int, int], receipt: Receipt, before: int) -> bool:
    """Whether the newest version has learned it; then the receipt names that one, and one that is pinned instead.

    `before`: the newest version before it.
    """
    head = store.head() if offsets else None
    if head is None or head.version <= before or not _has_learned(store, head.version, offsets):
        return False
    receipt.model, receipt.version, pinned = store.manifest(head.version).model, head.version, store.decision().version
    is_learned = pinned > before and _has_learned(store, pinned, offsets)
    receipt.pinned = pinned if pinned and not is_learned else 0
    return True


def _has_learned(store: SnapshotStore, version: int, offsets: Mapping[int, int]) -> bool:
    learned = store.manifest(version).offset
    return all(learned.get(partition, 0) >= offset for partition, offset in offsets.items())
