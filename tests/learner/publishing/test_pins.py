"""What a person has pinned outlives the store."""

from pathlib import Path

from learner.publishing.pins import PinBackup
from stream.snapshots.manifest import UNDECIDED, Head
from stream.snapshots.memory_store import MemoryStore
from tests.support.small_versions import publish, values


def test_pin_comes_back_after_a_wipe(tmp_path: Path) -> None:
    """A wiped store gets the pinned version back, whole, also from a learner that was started again."""
    store = MemoryStore("m")
    token = store.take_token()
    publish(store, 1, 0, token)
    publish(store, 2, 1, token)
    store.pin(1)
    PinBackup(store, tmp_path).sync()
    store.wipe()
    PinBackup(store, tmp_path).sync()
    assert store.decision().version == 1
    assert values(store, 1) == [1]


def test_what_was_let_go_stays_away(tmp_path: Path) -> None:
    """After an unpin a wiped store gets that decision back; and a later one replaces the one that was kept."""
    store = MemoryStore("m")
    token = store.take_token()
    publish(store, 1, 0, token)
    publish(store, 2, 1, token)
    keeper = PinBackup(store, tmp_path)
    store.pin(1)
    keeper.sync()
    store.pin(2)
    keeper.sync()
    store.wipe()
    keeper.sync()
    assert store.decision().version == 2
    store.pin(0)
    let_go = store.decision()
    keeper.sync()
    store.wipe()
    PinBackup(store, tmp_path).sync()
    assert store.decision() == let_go


def test_a_garbled_copy_is_forgotten(tmp_path: Path) -> None:
    """A copy that can't be read is reported and dropped; the learner goes on."""
    store = MemoryStore("m")
    publish(store, 1, 0, store.take_token())
    store.pin(1)
    PinBackup(store, tmp_path).sync()
    (tmp_path / "version").write_bytes(b"\x00")
    store.wipe()
    PinBackup(store, tmp_path).sync()
    assert store.decision() == UNDECIDED


def test_an_older_copy_gets_the_latest_decision(tmp_path: Path) -> None:
    """After a failover to a copy that missed some decisions, the latest holds: to pin another, or to let go."""
    store = MemoryStore("m")
    token = store.take_token()
    for version in (1, 2):
        publish(store, version, version - 1, token)
    keeper = PinBackup(store, tmp_path)
    store.pin(1)
    keeper.sync()
    knows_1 = store.replica()
    publish(store, 3, 2, token)
    store.pin(3)
    keeper.sync()
    pinned = store.decision()
    store.fail_over(knows_1)
    keeper.sync()
    assert store.decision() == pinned
    assert values(store, 3) == [3]
    assert store.head() == Head(2, token)
    store.pin(0)
    keeper.sync()
    let_go = store.decision()
    store.fail_over(knows_1)
    PinBackup(store, tmp_path).sync()
    assert store.decision() == let_go


def test_what_was_decided_meanwhile_stays(tmp_path: Path) -> None:
    """A decision made in a wiped store while nobody was there to put an older one back is the later one."""
    store = MemoryStore("m")
    token = store.take_token()
    publish(store, 1, 0, token)
    for _ in range(3):
        store.pin(1)
    PinBackup(store, tmp_path).sync()
    store.wipe()
    publish(store, 2, 1, token)
    store.pin(2)
    for _ in range(2):
        PinBackup(store, tmp_path).sync()
        assert store.decision().version == 2


def test_a_garbled_decision_is_taken_from_the_store(tmp_path: Path) -> None:
    """A decision that was changed on the disk isn't believed; what the store says is kept again."""
    store = MemoryStore("m")
    publish(store, 1, 0, store.take_token())
    store.pin(1)
    PinBackup(store, tmp_path).sync()
    path = tmp_path / "decision"
    for garbled in (b"", path.read_bytes().replace(b'"number":', b'"number":9')):
        path.write_bytes(garbled)
        PinBackup(store, tmp_path).sync()
        store.wipe()
        PinBackup(store, tmp_path).sync()
        assert store.decision().version == 1
