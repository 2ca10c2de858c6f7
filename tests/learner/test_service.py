"""The learner's loop over a log in memory: what can't be taken costs only itself, a full disk costs a checkpoint."""

import errno
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from learner.checkpoints.checkpoint import restore, take
from learner.checkpoints.checkpoint_files import KEEP, CheckpointFiles
from learner.learner import Learner
from learner.publishing.publisher import Publisher, publish_config
from learner.publishing.version_allocator import HighWater
from learner.record_prefetcher import RecordPrefetcher
from learner.service import HUNG_S, _loop, _prefetch, _start, _Status, _take
from learner.training import metrics
from learner.training.model import Model
from learner.training.training_records import TrainingRecords
from stream.events.codec import decode_entity, decode_examples, encode_record
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ
from stream.events.types import DeadLetter, Examples, Install
from stream.log.memory_log import MemoryLog, MemoryReader
from stream.log.protocol import START, Record
from stream.runtime.errors import (
    BadSnapshot,
    CheckpointError,
    Fenced,
    LogGap,
    LogUnavailable,
    SnapshotError,
    StoreUnavailable,
)
from stream.runtime.heartbeat import Heartbeat
from stream.runtime.metrics import exported
from stream.runtime.settings import Settings
from stream.snapshots.manifest import Head
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.store import fetch
from tests.support.learned_models import state_of
from tests.support.learner_world import records, small_spec
from tests.support.small_versions import AHEAD
from tests.support.waiting import wait_until

SPEC = small_spec()


class Room:
    """A learner over logs and files of its own."""

    def __init__(self, folder: Path) -> None:
        self.log = MemoryLog({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: 1_000)
        self.files = CheckpointFiles(folder)
        self.learner = self.start(Model(SPEC), 0)
        self.turns = 0

    def start(self, model: Model, offset: int) -> Learner:
        """A learner that begins there; it writes a checkpoint whenever it's asked, if something was learned."""
        return Learner(self.log, model, offset, self.files, checkpoint_every_ms=0)

    def write(self, *values: bytes | None) -> None:
        """Records of examples; None is a tombstone."""
        for value in values:
            self.log.send(EXAMPLES.name, 0, value, b"key")

    def learn(self, learner: Learner | None = None) -> None:
        """All that is there."""
        learner = learner or self.learner
        reader = self.log.reader(EXAMPLES.name, {0: learner.offset})
        self.learn_records(learner, reader.poll(0))
        reader.close()

    def learn_records(self, learner: Learner, records: list[Record]) -> None:
        """These, as they were read."""
        learner.learn(learner.model.record_encoder.records(records), self.turn)

    def turn(self) -> None:
        """Called after each step."""
        self.turns += 1

    def dead_letters(self) -> list[DeadLetter]:
        """What was buried."""
        reader = self.log.reader(EXAMPLES_DLQ.name, {0: 0})
        return [decode_entity(record.value or b"", DeadLetter) for record in reader.poll(0)]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """A learner that has learned nothing."""
    return Room(tmp_path / "checkpoints")


def state(model: Model) -> dict[str, bytes]:
    """Everything that a checkpoint would hold, but the offsets of records."""
    return {name: raw for name, raw in state_of(model).items() if name != "records"}


def test_it_learns_in_log_order(room: Room) -> None:
    """The model is the one that learned these records one by one; there are turns between; the offset is the next."""
    log = records(SPEC, 60)
    room.write(*map(encode_record, log))
    room.learn()
    alone = Model(SPEC)
    for offset, record in enumerate(log):
        alone.learn(record, offset)
    assert state(room.learner.model) == state(alone)
    assert room.learner.offset == len(log)
    assert 1 < room.turns < len(log), "records that wait are learned several in a step"
    assert room.learner.model.examples == 180
    assert room.dead_letters() == []


def test_a_record_is_learned_once(room: Room) -> None:
    """The same examples again, in another record, change nothing but the count of duplicates."""
    log = records(SPEC, 12)
    room.write(*map(encode_record, log))
    room.learn()
    before = state(room.learner.model)
    room.write(*map(encode_record, log))
    room.learn()
    assert state(room.learner.model) == before
    assert room.learner.model.duplicates == 36
    assert room.learner.offset == 2 * len(log)


def foreign(examples: Examples) -> Examples:
    """The same examples with features that another spec made."""
    features = b"\x01" + examples.page.features[1:]
    return msgspec.structs.replace(examples, page=msgspec.structs.replace(examples.page, features=features))


def test_what_cant_be_taken_is_buried_and_the_rest_learned(room: Room) -> None:
    """Garbage, tombstones, other events, cut-off or foreign features: dead letters with reasons, nothing else lost."""
    log = records(SPEC, 12)
    other = foreign(log[1][1])
    short = msgspec.structs.replace(log[2][0].page, features=log[2][0].page.features[:-8])
    cut = msgspec.structs.replace(log[2][0], page=short)
    bad_label = msgspec.structs.replace(log[3][0], labels=[0, 7, 0])
    room.write(
        b"\xc1 no msgpack",
        encode_record(log[0]),
        None,
        encode_record([log[1][0], other, log[1][2]]),
        encode_record([Install("u", "i", 5, "x")]),
        encode_record([cut, *log[2][1:]]),
        encode_record([bad_label, *log[3][1:]]),
        encode_record([]),
        msgspec.msgpack.encode({"a": 1}),
    )
    room.learn()
    letters = room.dead_letters()
    assert [letter.offset for letter in letters] == [0, 2, 3, 4, 5, 6, 8]
    assert {(letter.topic, letter.partition, letter.error) for letter in letters} == {(EXAMPLES.name, 0, "BadEvent")}
    wanted = ["", "", "another spec", "", "truncated", "label", ""]
    assert all(letter.message and word in letter.message for letter, word in zip(letters, wanted, strict=True))
    assert letters[0].original == b"\xc1 no msgpack"
    assert msgspec.msgpack.decode(letters[2].original, type=Examples) == other
    assert msgspec.msgpack.decode(letters[5].original, type=Examples) == bad_label
    assert room.learner.dead_letters.count == 7
    assert room.learner.offset == 9
    assert room.learner.model.examples == 3 * (3 + 2 + 2 + 2)
    good = {i for record in log for e in record if e.page.request_id not in (
        other.page.request_id, cut.page.request_id, bad_label.page.request_id) for i in e.ids}  # fmt: skip
    assert not room.learner.model.learned_ids.add(np.array(sorted(good), np.uint64)).any(), (
        "each of the others was learned"
    )


def test_a_buried_example_can_be_sent_again(room: Room) -> None:
    """A dead letter's bytes in a list are a record."""
    log = records(SPEC, 3)
    room.write(encode_record([foreign(log[0][0])]))
    room.learn()
    again = msgspec.msgpack.encode([msgspec.Raw(room.dead_letters()[0].original)])
    assert decode_examples(again) == ([foreign(log[0][0])], [])


def read_on(room: Room, learner: Learner, *, accept_gap: bool = False) -> None:
    """As the loop does, until something was read."""
    found: list[TrainingRecords] | None = None
    while not found:
        prefetcher = _prefetch(learner)
        try:
            while (found := _take(learner, prefetcher, accept_gap)) == []:
                pass
        finally:
            prefetcher.close()
    learner.learn(found, room.turn)


def test_without_a_checkpoint_it_begins_where_the_log_begins(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention has cut the log: a new model learns what is left; checkpoint and version hold the true offset."""
    log, store = records(SPEC, 60), AskedStore()
    monkeypatch.setattr("learner.service.KafkaLog", lambda *_, **__: room.log)
    monkeypatch.setattr("learner.service.check_dedup", lambda _: None)
    room.write(*map(encode_record, log))
    room.log.truncate(EXAMPLES.name, 0, 4)
    learner, alone = _start(Settings(), SPEC, room.files, _Status(threading.Event())), Model(SPEC)
    assert learner is not None
    learner.maybe_checkpoint(now=True)
    assert room.files.newest() is None, "nothing was learned"
    read_on(room, learner)
    for offset, record in enumerate(log[4:], 4):
        alone.learn(record, offset)
    assert state(learner.model) == state(alone)
    learner.maybe_checkpoint(now=True)
    checkpoint = room.files.newest()
    assert checkpoint is not None
    assert checkpoint.meta.offset == len(log)
    publisher = publisher_of(learner, store, tmp_path)
    assert store.manifest(publishes(publisher, learner).version).offset == {0: len(log)}
    publisher.uploader.stop()


def test_a_start_that_moves_before_anything_was_read_is_no_gap(room: Room) -> None:
    """Retention comes between the first question and its answer."""
    room.write(*map(encode_record, records(SPEC, 60)))
    learner = room.start(Model(SPEC), START)
    reader = room.log.reader(EXAMPLES.name, {0: START})
    room.log.truncate(EXAMPLES.name, 0, 4)
    prefetcher = RecordPrefetcher(lambda: reader, learner.model.record_encoder, lambda *_: None)
    while (found := _take(learner, prefetcher, accept_gap=False)) == []:
        pass
    prefetcher.close()
    assert found is None
    read_on(room, learner)
    assert learner.offset == 20
    assert learner.model.examples == 9 * (20 - 4)


def test_a_gap_behind_a_checkpoint_is_said_and_gone_over_when_told(room: Room) -> None:
    """With its offset, and the option that goes on."""
    log = records(SPEC, 180)
    room.write(*map(encode_record, log))
    first = room.start(Model(SPEC), 0)
    room.learn_records(first, room.log.reader(EXAMPLES.name, {0: 0}).poll(0, 20))
    first.maybe_checkpoint(now=True)
    room.log.truncate(EXAMPLES.name, 0, 25)
    checkpoint = room.files.newest()
    assert checkpoint is not None
    learner = room.start(restore(SPEC, checkpoint), checkpoint.meta.offset)
    with pytest.raises(LogGap, match=r"offset 20 was wanted, but the log now starts at 25.*--accept-gap"):
        read_on(room, learner)
    with capture_logs() as logged:
        read_on(room, learner, accept_gap=True)
    assert [one["event"] for one in logged if one["log_level"] == "error"] == ["continuing past the gap (--accept-gap)"]
    assert learner.offset == len(log)
    assert learner.model.examples == 9 * (20 + len(log) - 25)


class SlowLog(MemoryLog):
    """Dead letters are there once they were flushed, unless it's away: then they are lost."""

    def __init__(self) -> None:
        super().__init__({EXAMPLES.name: 1, EXAMPLES_DLQ.name: 1}, lambda: 1_000)
        self.sent: list[bytes | None] = []
        self.away = False
        self.sends = self.failures = 0  # of dead letters, of flushes

    def send(self, topic: str, partition: int, value: bytes | None, key: bytes | None = None) -> None:
        """See Log."""
        if topic == EXAMPLES_DLQ.name:
            self.sent.append(value)
            self.sends += 1
        else:
            super().send(topic, partition, value, key)

    def flush(self, timeout_s: float = 10.0) -> None:
        """See Log."""
        sent, self.sent = self.sent, []
        if self.away:
            self.failures += 1
            raise LogUnavailable("no broker answers")
        for value in sent:
            super().send(EXAMPLES_DLQ.name, 0, value)

    def close(self) -> None:
        """As Kafka's: what a flush would raise."""
        self.flush()


def test_a_checkpoint_waits_for_the_dead_letters_before_it(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its offset lies behind them: whenever one is written the log has confirmed them."""
    room.log = SlowLog()
    learner, log, letters = room.start(Model(SPEC), 0), records(SPEC, 12), list[int]()
    cut = learner.checkpointer.cut

    def seen(*arguments: int) -> None:
        letters.append(len(room.dead_letters()))
        cut(*arguments)

    monkeypatch.setattr(learner.checkpointer, "cut", seen)
    room.write(b"bad", encode_record(log[0]), b"bad", b"bad")
    for record in room.log.reader(EXAMPLES.name, {0: 0}).poll(0):
        learner.learn(learner.model.record_encoder.records([record]), lambda: learner.maybe_checkpoint(now=True))
    assert letters == [1, 1, 2, 3]


def test_letters_that_no_broker_took_are_sent_again(room: Room) -> None:
    """Meanwhile there is no checkpoint; what was learned stays, and isn't learned again."""
    room.log = SlowLog()
    learner, log = room.start(Model(SPEC), 0), records(SPEC, 12)
    room.write(b"bad", encode_record(log[0]), encode_record([foreign(log[1][0]), *log[1][1:]]))
    room.log.away = True
    with pytest.raises(LogUnavailable):
        room.learn(learner)
    with pytest.raises(LogUnavailable):
        learner.maybe_checkpoint(now=True)
    assert (room.dead_letters(), room.files.newest()) == ([], None)
    room.log.away = False
    room.learn(learner)
    assert [letter.offset for letter in room.dead_letters()] == [0, 2]
    assert (learner.offset, learner.model.examples, learner.model.duplicates) == (3, 15, 0)
    learner.maybe_checkpoint(now=True)
    assert room.files.newest() is not None
    assert len(room.dead_letters()) == 2, "those that were confirmed aren't sent again"


class Full(io.StringIO):
    """A stdout on a full disk."""

    def write(self, text: str) -> int:
        """It has no room."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_figures_that_cant_be_printed_are_told_and_learning_goes_on(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or a reader that has gone, where the lines at doubling counts go."""
    room.write(*map(encode_record, records(SPEC, 12)))
    monkeypatch.setattr("sys.stdout", Full())
    with capture_logs() as logged:
        room.learn()
    assert room.learner.model.examples == 36
    assert {one["reason"] for one in logged} == {"[Errno 28] No space left on device"}


def test_the_metrics_say_what_is_held_and_what_went(tmp_path: Path) -> None:
    """Of each part against its bound: of the deep part ids with a row, those that wait for one, and both that went."""
    room = Room(tmp_path)
    learner = room.start(Model(small_spec(**{"min_count = 2": 'min_count = 2\nexpire = "100s"'})), 0)
    assert learner.model.deep
    vocabulary = learner.model.deep.vocabulary
    log = records(SPEC, 12)
    room.write(*map(encode_record, log[:3]))
    room.learn(learner)
    vocabulary.evict(10**9)
    room.write(encode_record(log[3]))
    room.learn(learner)

    def metric(name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(f"thalweg_learner_{name}", labels)

    learner.update_metrics(now=True)
    assert 0 < vocabulary.assigned == metric("keys", part="deep")
    assert 0 < vocabulary.pending == metric("pending_ids")
    assert 0 < vocabulary.evicted == metric("evicted_ids_total", had="row")
    assert 0 < vocabulary.evicted_pending == metric("evicted_ids_total", had="none")
    assert metric("keys", part="wide") == len(learner.model.wide.table)
    assert metric("keys", part="statistics") == len(learner.model.statistics.table)


def test_a_scrape_shows_examples_and_offset_of_one_moment(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes while they are set waits: else examples of before could stand beside an offset of after."""
    room.write(*map(encode_record, records(SPEC, 12)))
    room.learn()
    room.learner.update_metrics(now=True)
    with ThreadPoolExecutor(1) as pool:
        scrapes = list[Future[bytes]]()

        def set_model(model: Model) -> None:
            scrapes.append(pool.submit(exported))
            with pytest.raises(TimeoutError):
                scrapes[0].result(timeout=0.2)
            metrics.EXAMPLES.set(model.examples)

        room.write(*map(encode_record, records(SPEC, 24)[12:]))
        room.learn()
        monkeypatch.setattr(metrics, "set_model", set_model)
        room.learner.update_metrics(now=True)
        lines = scrapes[0].result().decode().splitlines()
    assert f"thalweg_learner_examples_total {room.learner.model.examples:.1f}" in lines
    assert f"thalweg_learner_offset {room.learner.offset:.1f}" in lines


def test_a_learner_goes_on_from_its_checkpoint(room: Room) -> None:
    """Restored in mid-stream, over a warm start: bit for bit the one that never stopped."""
    log = records(SPEC, 150)
    half = len(log) // 2
    room.write(*map(encode_record, log[:half]))
    room.learn()
    room.learner.maybe_checkpoint(now=True)
    checkpoint = room.files.newest()
    assert checkpoint is not None
    assert checkpoint.meta.offset == half
    room.write(*map(encode_record, log[half:]))
    room.learn()
    again = room.start(restore(SPEC, checkpoint), checkpoint.meta.offset)
    room.learn(again)
    assert again.model.retrain_wanted == room.learner.model.retrain_wanted == "periodic"
    assert state(again.model) == state(room.learner.model)


class FullDisk(io.FileIO):
    """A file on a disk that has room for so many bytes."""

    room = 0

    def write(self, data: Any) -> int:
        """Until it's full."""
        if self.tell() + memoryview(data).nbytes > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data) or 0


@pytest.fixture
def fill_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Leaves room for so many bytes to files that are opened for writing."""
    opened = Path.open

    def fill(room: int) -> None:
        def full(path: Path, mode: str = "r", *rest: Any, **more: Any) -> IO[Any]:
            if mode != "wb":
                return opened(path, mode, *rest, **more)
            file: Any = FullDisk(path, "wb")
            file.room = room
            return file  # type: ignore[no-any-return]

        monkeypatch.setattr(Path, "open", full)

    return fill


def learn_on(room: Room, log: list[list[Examples]]) -> None:
    """One record more."""
    room.write(encode_record(log[room.learner.offset]))
    room.learn()


@pytest.fixture
def bases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every checkpoint is a base, so that all have about one size."""
    monkeypatch.setattr("learner.checkpoints.checkpointer.REBASE_SHARE", -1.0)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_full_disk_costs_a_checkpoint_only(
    room: Room, fill_disk: Callable[[int], None], bases: None, share: float
) -> None:
    """Wherever in the file it gets full: the old one is whole, no rest lies about, learning goes on."""
    log = records(SPEC, 30)
    learn_on(room, log)
    room.learner.maybe_checkpoint(now=True)
    (path,) = room.files.paths()
    before = path.read_bytes()
    learn_on(room, log)
    fill_disk(int(share * len(before)))
    with pytest.raises(CheckpointError, match=r"No space left.*the checkpoint before it is intact; free space"):
        room.files.write(take(room.learner.model, 2, 0, 0))
    room.learner.maybe_checkpoint(now=True)
    assert [p.name for p in room.files.folder.iterdir()] == [path.name]
    assert path.read_bytes() == before
    fill_disk(1 << 40)
    room.learner.maybe_checkpoint(now=True)
    checkpoint = room.files.newest()
    assert checkpoint is not None
    assert checkpoint.meta.offset == 2, "once there is room again, no new record is waited for"
    learn_on(room, log)
    assert room.learner.model.examples == 27
    room.learner.maybe_checkpoint(now=True)
    checkpoint = room.files.newest()
    assert checkpoint is not None
    assert checkpoint.meta.offset == 3
    assert state(restore(SPEC, checkpoint)) == state(room.learner.model)


def test_checkpoints_are_few_and_only_of_something_new(room: Room, bases: None) -> None:
    """The newest KEEP stay; without a record learned there is none."""
    log = records(SPEC, 30)
    for n in range(4):
        learn_on(room, log)
        room.learner.maybe_checkpoint(now=True)
        room.learner.maybe_checkpoint(now=True)
        assert len(room.files.paths()) == min(n + 1, KEEP)
    newest = room.files.newest()
    assert newest is not None
    assert newest.meta.offset == 4


def test_a_torn_checkpoint_is_passed_over(room: Room) -> None:
    """The one before it is taken; with none left, the message says how to begin again."""
    log = records(SPEC, 30)
    for _ in range(2):
        learn_on(room, log)
        room.learner.maybe_checkpoint(now=True)
    old, new = room.files.paths()
    new.write_bytes(new.read_bytes()[:-100])
    checkpoint = room.files.newest()
    assert checkpoint is not None
    assert checkpoint.meta.offset == 1
    raw = bytearray(old.read_bytes())
    raw[len(raw) // 2] ^= 1
    old.write_bytes(raw)
    with pytest.raises(CheckpointError, match="move them away to learn from the log's beginning"):
        room.files.newest()


def test_another_spec_s_checkpoint_is_refused(room: Room) -> None:
    """The message names both fingerprints and the remedy."""
    checkpoint = take(room.learner.model, 0, 0, 0)
    with pytest.raises(CheckpointError, match="thalweg evolve"):
        restore(small_spec(**{"l1 = 0.1": "l1 = 0.2"}), checkpoint)


def test_a_folder_that_cant_be_written_is_named(tmp_path: Path) -> None:
    """A file in its place: refused at start, with what to do."""
    (tmp_path / "local").write_text("a file")
    for folder in (tmp_path / "local", tmp_path / "local" / "checkpoints"):
        with pytest.raises(CheckpointError, match=r"can't be written .*THALWEG_LOCAL"):
            CheckpointFiles(folder)


class AskedStore(MemoryStore):
    """Counts how often its head was asked for; while `hangs` is clear, it doesn't answer at all."""

    def __init__(self) -> None:
        super().__init__(SPEC.name)
        self.asked = 0
        self.answering = threading.Event()
        self.answering.set()

    def head(self) -> Head | None:
        """See SnapshotStore."""
        self.asked += 1
        self.answering.wait()
        return super().head()


def publisher_of(learner: Learner, store: MemoryStore, local: Path) -> Publisher:
    """As the loop makes it, with a clock that lets each turn publish."""
    clock = iter(range(10**6, 10**9, 10**5)).__next__
    cadence = publish_config(learner.model, Settings(local=local))
    learner.publisher = Publisher(learner.model, store, cadence, clock, learner.used)
    return learner.publisher


def publishes(publisher: Publisher, learner: Learner) -> Head:
    """Turns until one publishes: the head that it leaves."""
    wait_until(lambda: publisher.maybe_publish(learner.offset))
    wait_until(lambda: not publisher.uploader.busy)
    head = publisher.uploader._store.head()
    assert head is not None
    return head


@pytest.fixture(autouse=True)
def ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the store asks it at once again."""
    monkeypatch.setattr("learner.publishing.uploader.ACQUIRE_EVERY_S", 0.001)


def test_nothing_is_published_before_the_head_is_reached(room: Room, tmp_path: Path) -> None:
    """A learner that starts again catches up unseen, and the other learner publishes on; then it takes over."""
    log, store = records(SPEC, 60), AskedStore()
    room.write(*map(encode_record, log[:10]))
    room.learn()
    other = publisher_of(room.learner, store, tmp_path / "other")
    live = publishes(other, room.learner)

    restarted = room.start(Model(SPEC), 0)
    reader = room.log.reader(EXAMPLES.name, {0: 0})
    with capture_logs() as logged:
        newcomer = publisher_of(restarted, store, tmp_path / "restarted")
        for _ in range(10):
            asked = store.asked
            assert not newcomer.maybe_publish(restarted.offset)
            wait_until(lambda: store.asked > asked + 2)  # noqa: B023  # called before the loop goes on
            assert not newcomer.uploader.owns_model
            assert newcomer.uploader.token == 0
            assert store.head() == live
            room.learn_records(restarted, reader.poll(0, 1))
    assert [(one["live"], one["wanted"]) for one in logged if "nothing is published" in one["event"]] == [(1, 10)]
    room.write(encode_record(log[10]))
    room.learn()
    live = publishes(other, room.learner)
    room.learn_records(restarted, reader.poll(0, 1))
    head = publishes(newcomer, restarted)
    assert head.version == live.version + 1
    assert head.token > live.token
    manifest = store.manifest(head.version)
    assert (manifest.parent, manifest.offset) == (live.version, {0: 11})
    assert all(part.base and not part.merged and not part.deltas for part in manifest.parts.values())
    rows = [fetch(store, digests)["rows"] for digests in manifest.parts["statistics"].payloads()]
    assert sum(map(len, rows)) == len(restarted.model.statistics.table)
    newcomer.uploader.stop()
    other.uploader.join(10)
    with pytest.raises(Fenced, match="another learner owns small"):
        other.maybe_publish(room.learner.offset)


def test_what_was_published_while_a_learner_took_over_counts(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the head and its token the other went on: it has to catch up with that too."""
    log, store = records(SPEC, 60), AskedStore()
    room.write(*map(encode_record, log[:4]))
    room.learn()
    other = publisher_of(room.learner, store, tmp_path / "other")
    publishes(other, room.learner)
    take, went_on = store.take_token, list[Head]()

    def late(at_least: int = 0) -> int:
        room.write(*map(encode_record, log[4:6]))
        room.learn()
        went_on.append(publishes(other, room.learner))
        return take(at_least)

    monkeypatch.setattr(store, "take_token", late)
    restarted = room.start(Model(SPEC), 0)
    newcomer = publisher_of(restarted, store, tmp_path / "restarted")
    reader = room.log.reader(EXAMPLES.name, {0: 0})
    room.learn_records(restarted, reader.poll(0, 4))
    assert not newcomer.maybe_publish(4)
    wait_until(lambda: newcomer.uploader.token)
    asked = store.asked
    wait_until(lambda: store.asked > asked + 2)
    assert not newcomer.uploader.owns_model
    room.learn_records(restarted, reader.poll(0, 2))
    head = publishes(newcomer, restarted)
    (live,) = went_on
    assert store.manifest(head.version).parent == live.version
    assert head.version > live.version
    newcomer.uploader.stop()
    other.uploader.stop()


def test_no_number_comes_twice_though_the_store_was_wiped_meanwhile(room: Room, tmp_path: Path) -> None:
    """Killed long after its checkpoint, its store wiped: what it publishes then has numbers and a token of its own."""
    log, store = records(SPEC, 60), AskedStore()
    room.write(*map(encode_record, log))
    first, used = publisher_of(room.learner, store, tmp_path), list[Head]()
    reader = room.log.reader(EXAMPLES.name, {0: 0})
    for _ in range(5):
        room.learn_records(room.learner, reader.poll(0, 1))
        used.append(publishes(first, room.learner))
    first.uploader.stop()
    store.wipe()
    again = room.start(Model(SPEC), 0)  # without any checkpoint: the worst case
    room.learn_records(again, room.log.reader(EXAMPLES.name, {0: 0}).poll(0, 2))
    second = publisher_of(again, store, tmp_path)
    head = publishes(second, again)
    second.uploader.stop()
    assert head.version > max(one.version for one in used)
    assert head.token > max(one.token for one in used)


@pytest.mark.parametrize("lost", ["manifest", "head"])
def test_a_live_version_that_cant_be_read_is_published_over(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """A head that is garbled or that names a lost manifest doesn't stop the learner: a full base takes its place."""
    log, store = records(SPEC, 60), AskedStore()
    room.write(*map(encode_record, log[:4]))
    room.learn()
    room.learner.used = HighWater(5, 1)

    def garbled(*_: object) -> Head:
        raise BadSnapshot("it's garbled")

    with monkeypatch.context() as patch:
        patch.setattr(store, lost, garbled)
        if lost == "manifest":
            patch.setattr(store, "head", lambda: Head(7, 1))
        publisher = publisher_of(room.learner, store, tmp_path)
        wait_until(lambda: publisher.uploader.owns_model)
    assert publishes(publisher, room.learner).version == (8 if lost == "manifest" else 6)
    publisher.uploader.stop()


def test_learning_never_waits_for_a_store_that_hangs(room: Room, tmp_path: Path) -> None:
    """A store that takes a question and never answers: every record is learned; once it answers, a version comes."""
    log, store = records(SPEC, 60), AskedStore()
    store.answering.clear()
    room.write(*map(encode_record, log))
    publisher = publisher_of(room.learner, store, tmp_path)
    wait_until(lambda: store.asked)
    reader = room.log.reader(EXAMPLES.name, {0: 0})

    def turn() -> None:
        assert not publisher.maybe_publish(room.learner.offset)

    room.learner.learn(room.learner.model.record_encoder.records(reader.poll(0)), turn)
    assert room.learner.offset == len(log)
    assert store.asked == 1, "the very first question is still open"
    store.answering.set()
    assert publishes(publisher, room.learner).version == 1
    publisher.uploader.stop()


def test_a_store_that_refuses_us_at_the_start_is_asked_again(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away, or a wrong login: learning goes on, and publishing begins once people have mended it."""
    log, store = records(SPEC, 60), AskedStore()
    room.write(*map(encode_record, log))
    room.learn()
    errors = [SnapshotError("NOPERM"), StoreUnavailable("away")]
    versions = store.versions

    def refusing() -> list[int]:
        if errors:
            raise errors.pop()
        return versions()

    monkeypatch.setattr(store, "versions", refusing)
    publisher = publisher_of(room.learner, store, tmp_path)
    assert publishes(publisher, room.learner).version == 1
    assert not errors
    publisher.uploader.stop()


def test_a_checkpoint_knows_what_was_used(room: Room, tmp_path: Path) -> None:
    """Version and token of the last that was cut; before that, those of the checkpoint before."""
    log, store = records(SPEC, 60), AskedStore()
    room.learner.used = HighWater(30, AHEAD)

    def used() -> HighWater:
        learn_on(room, log)
        room.learner.maybe_checkpoint(now=True)
        checkpoint = room.files.newest()
        assert checkpoint is not None
        return HighWater(checkpoint.meta.version, checkpoint.meta.token)

    assert used() == HighWater(30, AHEAD)
    publisher = publisher_of(room.learner, store, tmp_path)
    assert publishes(publisher, room.learner) == Head(31, AHEAD + 1)
    assert used() == HighWater(31, AHEAD + 1)
    publisher.uploader.stop()


def test_a_record_before_the_offset_is_our_own_mistake(room: Room) -> None:
    """The loop never learns backwards."""
    room.learner.offset = 5
    with pytest.raises(AssertionError, match="learned already"):
        room.learn_records(room.learner, [Record(EXAMPLES.name, 0, 4, 0, None, b"\x90")])


@pytest.fixture
def slow(room: Room, monkeypatch: pytest.MonkeyPatch) -> SlowLog:
    """The room's log: no dead letter can be written yet, and whoever waits for that tries again at once."""
    monkeypatch.setattr("learner.learner.BACKOFF_S", (0.001,))
    room.log = log = SlowLog()
    log.away = True
    return log


@contextmanager
def looping(learner: Learner, store: MemoryStore, local: Path, status: _Status | None = None) -> Iterator[Future[None]]:
    """The loop, in a thread; it is asked to stop at the end, and what it raised is raised then."""
    status = status or _Status(threading.Event())
    with ThreadPoolExecutor(1) as pool:
        loop = pool.submit(_loop, learner, store, Settings(local=local), status, False)
        try:
            yield loop
        finally:
            status.stopping.set()
        loop.result()


def test_nothing_new_is_read_while_dead_letters_wait(room: Room, tmp_path: Path, slow: SlowLog) -> None:
    """They don't grow in number, and each try sends one of them; once their topic is back all are there, in order."""
    learner = room.start(Model(SPEC), 0)
    learner._checkpoint_every_ms = 10**9
    room.write(*[b"bad"] * 100)
    with looping(learner, AskedStore(), tmp_path):
        wait_until(lambda: slow.failures)
        for n in range(1, 6):
            room.write(b"bad", encode_record(records(SPEC, n)[-1]))
            wait_until(lambda: slow.failures > 2 * n)  # noqa: B023  # called before the loop goes on
        assert (learner.offset, len(learner.dead_letters._unconfirmed)) == (100, 100)
        assert slow.sends <= slow.failures + 1
        slow.away = False
        wait_until(lambda: learner.offset == 110)
    assert [letter.offset for letter in room.dead_letters()] == [*range(100), *range(100, 110, 2)]
    assert slow.sends == slow.failures + 105
    checkpoint = room.files.newest()
    assert checkpoint is not None
    assert checkpoint.meta.offset == 110


def test_letters_that_were_confirmed_before_the_topic_went_away_arent_sent_again(room: Room) -> None:
    """The log fails between two lots of them: the next call begins with the second."""
    room.log = log = SlowLog()
    learner, flush, flushes = room.start(Model(SPEC), 0), log.flush, 0

    def failing(timeout_s: float = 10.0) -> None:
        nonlocal flushes
        flushes += 1
        log.away = flushes == 3
        flush(timeout_s)

    log.flush = failing  # type: ignore[method-assign]
    room.write(*[b"bad"] * 150)
    with pytest.raises(LogUnavailable):
        room.learn(learner)
    assert len(room.dead_letters()) == 101
    learner.dead_letters.confirm()
    assert [letter.offset for letter in room.dead_letters()] == list(range(150))


def test_what_was_learned_is_published_while_dead_letters_wait(room: Room, tmp_path: Path, slow: SlowLog) -> None:
    """The store is there though their topic isn't: no new record is needed. A checkpoint waits for the letters."""
    learner, store, log = room.start(Model(SPEC), 0), AskedStore(), records(SPEC, 60)
    store.answering.clear()
    room.write(*map(encode_record, log), b"bad")
    with looping(learner, store, tmp_path):
        wait_until(lambda: slow.failures > 2)
        assert learner.offset == len(log) + 1
        store.answering.set()
        wait_until(store.head)
        head = store.head()
        assert head is not None
        assert store.manifest(head.version).offset == {0: len(log) + 1}
    checkpoint = room.files.newest()
    assert checkpoint is not None
    assert (room.dead_letters(), checkpoint.meta.offset <= len(log)) == ([], True)


def test_a_stop_while_dead_letters_wait_is_a_stop(room: Room, tmp_path: Path, slow: SlowLog) -> None:
    """It says why there is no checkpoint, and the next start reads those records again: no letter is lost."""
    learner = room.start(Model(SPEC), 0)
    room.write(b"bad", encode_record(records(SPEC, 1)[0]))
    with capture_logs() as logged, looping(learner, AskedStore(), tmp_path):
        wait_until(lambda: slow.failures > 2)
    last = [one["event"] for one in logged if one["event"] != "waiting"][-2:]
    assert "no last checkpoint: dead letters are unconfirmed" in last[0]
    assert room.files.newest() is None
    slow.away = False
    room.learn(again := room.start(Model(SPEC), 0))
    again.maybe_checkpoint(now=True)
    assert [letter.offset for letter in room.dead_letters()] == [0]
    assert len(room.files.paths()) == 1


def test_who_took_the_model_over_is_told_though_dead_letters_wait(
    room: Room, tmp_path: Path, slow: SlowLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason why the loop ends is the first one, not what fails on the way out."""

    def fenced(_: Publisher, offset: int) -> bool:
        if offset:
            raise Fenced("another learner owns small")
        return False

    monkeypatch.setattr(Publisher, "maybe_publish", fenced)
    room.write(b"bad")
    with (
        pytest.raises(Fenced, match="another learner owns"),
        looping(room.start(Model(SPEC), 0), AskedStore(), tmp_path) as loop,
    ):
        wait_until(loop.done)
    assert slow.failures == 2, "at the checkpoint and at the end"


def test_a_loop_that_hangs_is_not_live(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning that takes no step for HUNG_S is noticed; a shorter pause isn't, and the next step ends it."""
    now_s, hanging, goes_on = 0.0, threading.Event(), threading.Event()
    status = _Status(threading.Event(), heart=Heartbeat("the learning loop", HUNG_S, lambda: now_s))
    learn = room.learner.learn

    def hang(*args: Any) -> None:
        hanging.set()
        assert goes_on.wait(60.0)
        learn(*args)

    monkeypatch.setattr(room.learner, "learn", hang)
    with looping(room.learner, MemoryStore("m"), tmp_path, status):
        assert hanging.wait(60.0)
        now_s = HUNG_S
        assert status.live() == (True, "ok")
        now_s += 1.0
        assert (status.live()[0], status.live()[1].split(":")[0]) == (False, "the learning loop hangs")
        goes_on.set()
        wait_until(lambda: status.live()[0])


def test_a_reader_that_hangs_is_not_live(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learning goes on without records, which `/livez` says; a reader that was closed is asked no more."""
    now_s, goes_on = 0.0, threading.Event()
    status = _Status(threading.Event())
    read = room.log.reader

    def hang(topic: str, positions: Mapping[int, int]) -> MemoryReader:
        assert goes_on.wait(60.0)
        return read(topic, positions)

    monkeypatch.setattr(room.log, "reader", hang)
    monkeypatch.setattr("learner.record_prefetcher.Heartbeat", partial(Heartbeat, clock_s=lambda: now_s))
    with looping(room.learner, MemoryStore("m"), tmp_path, status):
        wait_until(lambda: status.prefetcher)
        now_s = 1_000.0
        assert (status.live()[0], status.live()[1].split(":")[0]) == (False, "the thread that reads examples hangs")
        goes_on.set()
        wait_until(lambda: status.live()[0])
    now_s += 1_000.0
    assert status.live() == (True, "ok")
