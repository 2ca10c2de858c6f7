"""The learner's loop over a log in memory: what can't be taken costs only itself, a full disk costs a checkpoint."""

import errno
import io
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import pytest

from learner.checkpoint import KEEP, CheckpointFiles, restore, take
from learner.model import Model
from learner.service import Learner, start_publisher
from stream.errors import CheckpointError, LogUnavailable
from stream.events import DeadLetter, Examples, Install, decode_entity, decode_examples, encode_record
from stream.log import MemoryLog, Record
from stream.memory_store import MemoryStore
from stream.settings import Settings
from stream.snapshot import Head, fetch
from stream.topics import EXAMPLES, EXAMPLES_DLQ
from tests.learner.worlds import records, small_spec

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
        learner.learn(reader.poll(0), self.turn)
        reader.close()

    def turn(self) -> None:
        """Called after each record."""
        self.turns += 1

    def letters(self) -> list[DeadLetter]:
        """What was buried."""
        reader = self.log.reader(EXAMPLES_DLQ.name, {0: 0})
        return [decode_entity(record.value or b"", DeadLetter) for record in reader.poll(0)]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """A learner that has learned nothing."""
    return Room(tmp_path / "checkpoints")


def state(model: Model) -> dict[str, bytes]:
    """Everything that a checkpoint would hold, but where it stands."""
    arrays = take(model, 0, 0, 0).arrays
    return {name: array.tobytes() for name, array in arrays.items() if name != "records"}


def test_it_learns_in_log_order(room: Room) -> None:
    """The model is the one that learned these records one after another; each has its turn; the offset is the next."""
    log = records(SPEC, 60)
    room.write(*map(encode_record, log))
    room.learn()
    alone = Model(SPEC)
    for offset, record in enumerate(log):
        alone.learn(record, offset)
    assert state(room.learner.model) == state(alone)
    assert room.learner.offset == room.turns == len(log)
    assert room.learner.model.examples == 180
    assert room.letters() == []


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
    letters = room.letters()
    assert [letter.offset for letter in letters] == [0, 2, 3, 4, 5, 6, 8]
    assert {(letter.topic, letter.partition, letter.error) for letter in letters} == {(EXAMPLES.name, 0, "BadEvent")}
    wanted = ["", "", "another spec", "", "cut off", "label", ""]
    assert all(letter.message and word in letter.message for letter, word in zip(letters, wanted, strict=True))
    assert letters[0].original == b"\xc1 no msgpack"
    assert msgspec.msgpack.decode(letters[2].original, type=Examples) == other
    assert msgspec.msgpack.decode(letters[5].original, type=Examples) == bad_label
    assert room.learner.dead_letters == 7
    assert room.learner.offset == room.turns == 9
    assert room.learner.model.examples == 3 * (3 + 2 + 2 + 2)
    good = {i for record in log for e in record if e.page.request_id not in (
        other.page.request_id, cut.page.request_id, bad_label.page.request_id) for i in e.ids}  # fmt: skip
    assert not room.learner.model.seen.new(np.array(sorted(good), np.uint64)).any(), "each of the others was learned"


def test_a_buried_example_can_be_sent_again(room: Room) -> None:
    """A dead letter's bytes in a list are a record."""
    log = records(SPEC, 3)
    room.write(encode_record([foreign(log[0][0])]))
    room.learn()
    again = msgspec.msgpack.encode([msgspec.Raw(room.letters()[0].original)])
    assert decode_examples(again) == ([foreign(log[0][0])], [])


def test_a_learner_goes_on_from_its_checkpoint(room: Room) -> None:
    """Restored in mid-stream, over a warm start: bit for bit the one that never stopped."""
    log = records(SPEC, 150)
    half = len(log) // 2
    room.write(*map(encode_record, log[:half]))
    room.learn()
    room.learner.maybe_checkpoint(now=True)
    held = room.files.newest()
    assert held is not None
    assert held.meta.offset == half
    room.write(*map(encode_record, log[half:]))
    room.learn()
    again = room.start(restore(SPEC, held), held.meta.offset)
    room.learn(again)
    assert again.model.warm_starts == room.learner.model.warm_starts > 0
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


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_full_disk_costs_a_checkpoint_only(room: Room, fill_disk: Callable[[int], None], share: float) -> None:
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
    held = room.files.newest()
    assert held is not None
    assert held.meta.offset == 2, "once there is room again, no new record is waited for"
    learn_on(room, log)
    assert room.learner.model.examples == 27
    room.learner.maybe_checkpoint(now=True)
    held = room.files.newest()
    assert held is not None
    assert held.meta.offset == 3
    assert state(restore(SPEC, held)) == state(room.learner.model)


def test_checkpoints_are_few_and_only_of_something_new(room: Room) -> None:
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
    """The one before it is taken; with none left, the message says how to begin anew."""
    log = records(SPEC, 30)
    for _ in range(2):
        learn_on(room, log)
        room.learner.maybe_checkpoint(now=True)
    old, new = room.files.paths()
    new.write_bytes(new.read_bytes()[:-100])
    held = room.files.newest()
    assert held is not None
    assert held.meta.offset == 1
    raw = bytearray(old.read_bytes())
    raw[len(raw) // 2] ^= 1
    old.write_bytes(raw)
    with pytest.raises(CheckpointError, match="move them away to learn from the log's beginning"):
        room.files.newest()


def test_another_spec_s_checkpoint_is_refused(room: Room) -> None:
    """The message names both fingerprints and the remedy."""
    held = take(room.learner.model, 0, 0, 0)
    with pytest.raises(CheckpointError, match="give the changed spec a new name"):
        restore(small_spec(**{"l1 = 0.1": "l1 = 0.2"}), held)


def test_a_folder_that_cant_be_written_is_named(tmp_path: Path) -> None:
    """A file in its place: refused at start, with what to do."""
    (tmp_path / "local").write_text("a file")
    for folder in (tmp_path / "local", tmp_path / "local" / "checkpoints"):
        with pytest.raises(CheckpointError, match=r"can't be written .*THALWEG_LOCAL"):
            CheckpointFiles(folder)


def settle(learner: Learner) -> None:
    """Until what was cut has arrived."""
    assert learner.publisher is not None
    until = time.monotonic() + 10
    while learner.publisher.carrier.busy:
        assert time.monotonic() < until
        time.sleep(0.001)


def ask(learner: Learner, store: MemoryStore, local: Path) -> bool:
    """Ask for a publisher, however short ago the last time was. Is there one?"""
    learner.asked_ms = 0
    learner.publisher = start_publisher(learner, store, Settings(local=local))
    return learner.publisher is not None


def test_nothing_is_published_before_the_head_is_reached(room: Room, tmp_path: Path) -> None:
    """A learner that starts anew catches up with what is live, unseen; then it publishes a full base of its own."""
    log, store = records(SPEC, 60), MemoryStore(SPEC.name)
    room.write(*map(encode_record, log[:10]))
    room.learn()
    assert ask(room.learner, store, tmp_path)
    assert room.learner.publisher is not None
    assert room.learner.publisher.maybe_publish(room.learner.offset)
    settle(room.learner)
    room.learner.publisher.carrier.stop()
    live = store.head()
    assert live is not None

    anew = room.start(Model(SPEC), 0)
    reader = room.log.reader(EXAMPLES.name, {0: 0})
    for _ in range(10):
        assert not ask(anew, store, tmp_path)
        anew.learn(reader.poll(0, 1), room.turn)
        assert store.head() == live
    assert ask(anew, store, tmp_path)
    assert anew.publisher is not None
    assert anew.publisher.maybe_publish(anew.offset)
    settle(anew)
    anew.publisher.carrier.stop()
    head = store.head()
    assert head is not None
    assert head.version > live.version
    assert head.token > live.token
    manifest = store.manifest(head.version)
    assert (manifest.parent, manifest.offset) == (live.version, {0: 10})
    assert all(part.base and not part.merged and not part.deltas for part in manifest.parts.values())
    rows = [fetch(store, digests)["rows"] for digests in manifest.parts["statistics"].contents()]
    assert sum(map(len, rows)) == len(anew.model.statistics.table)


def test_no_number_comes_twice_though_the_store_was_wiped_meanwhile(room: Room, tmp_path: Path) -> None:
    """Killed long after its checkpoint, its store wiped: what it publishes then has numbers and a token of its own."""
    log, store = records(SPEC, 60), MemoryStore(SPEC.name)
    room.write(*map(encode_record, log))
    first, used = room.learner, list[tuple[int, int]]()
    reader = room.log.reader(EXAMPLES.name, {0: 0})
    assert ask(first, store, tmp_path)
    assert first.publisher is not None
    first.publisher._now_ms = iter(range(10**6, 10**9, 10**5)).__next__
    for _ in range(5):
        first.learn(reader.poll(0, 1), room.turn)
        assert first.publisher.maybe_publish(first.offset)
        settle(first)
        head = store.head()
        assert head is not None
        used.append((head.version, head.token))
    first.publisher.carrier.stop()
    store.wipe()
    again = room.start(Model(SPEC), 0)  # without any checkpoint: the worst case
    again.learn(room.log.reader(EXAMPLES.name, {0: 0}).poll(0, 2), room.turn)
    assert ask(again, store, tmp_path)
    assert again.publisher is not None
    assert again.publisher.maybe_publish(again.offset)
    settle(again)
    again.publisher.carrier.stop()
    head = store.head()
    assert head is not None
    assert head.version > max(version for version, _ in used)
    assert head.token > max(token for _, token in used)


def test_a_head_without_its_manifest_is_published_over(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that lost the live version's manifest doesn't stop the learner: a newer full base takes its place."""
    store = MemoryStore(SPEC.name)
    monkeypatch.setattr(store, "head", lambda: Head(7, 1))
    assert ask(room.learner, store, tmp_path)
    assert room.learner.publisher is not None
    assert room.learner.publisher.version == 7
    room.learner.publisher.carrier.stop()


def test_a_token_is_taken_at_the_first_answer(room: Room, tmp_path: Path) -> None:
    """Though it has yet to catch up, no older learner can publish from then on; and it takes one only."""
    log, store = records(SPEC, 60), MemoryStore(SPEC.name)
    room.write(*map(encode_record, log[:4]))
    room.learn()
    store.answers = False
    assert not ask(room.learner, store, tmp_path)
    assert not room.learner.token_taken
    store.answers = True
    assert ask(room.learner, store, tmp_path)
    assert room.learner.publisher is not None
    room.learner.publisher.maybe_publish(room.learner.offset)
    settle(room.learner)
    room.learner.publisher.carrier.stop()
    anew = room.start(Model(SPEC), 0)
    assert not ask(anew, store, tmp_path)
    token = anew.token
    assert token > room.learner.token
    assert not ask(anew, store, tmp_path)
    assert anew.token == token


def test_a_store_isn_t_asked_at_every_turn(room: Room, tmp_path: Path) -> None:
    """Between two questions some time passes: a store that is down is left alone."""
    store = MemoryStore(SPEC.name)
    store.answers = False
    assert not ask(room.learner, store, tmp_path)
    store.answers = True
    room.learner.asked_ms += 10**9
    assert start_publisher(room.learner, store, Settings(local=tmp_path)) is None


def test_a_record_before_the_offset_is_our_own_mistake(room: Room) -> None:
    """The loop never learns backwards."""
    room.learner.offset = 5
    with pytest.raises(AssertionError, match="learned already"):
        room.learner.learn([Record(EXAMPLES.name, 0, 4, 0, None, b"\x90")], room.turn)


def test_a_broker_that_is_away_during_a_warm_start_costs_time_only(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The re-read waits and goes on where it was: the learner ends as one that was never disturbed."""
    monkeypatch.setattr("learner.service.BACKOFF_S", (0.0,))
    log = records(SPEC, 150)
    undisturbed = Model(SPEC)
    undisturbed.reread = lambda offset: iter(log[offset:])
    for offset, record in enumerate(log):
        undisturbed.learn(record, offset)
    assert undisturbed.warm_starts == 1
    reader, failures = room.log.reader, 3

    def away(topic: str, positions: Mapping[int, int]) -> Any:
        nonlocal failures
        if positions[0] != 0 and failures:
            failures -= 1
            raise LogUnavailable("no broker answers")
        return reader(topic, positions)

    room.write(*map(encode_record, log))
    monkeypatch.setattr(room.log, "reader", away)
    room.learn()
    assert failures == 0
    assert state(room.learner.model) == state(undisturbed)
