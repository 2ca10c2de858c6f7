"""What a person has pinned outlives the store."""

from pathlib import Path

from learner.pins import PinKeeper
from stream.memory_store import MemoryStore
from tests.stream.snapshots import publish, values


def test_pin_comes_back_after_a_wipe(tmp_path: Path) -> None:
    """A wiped store gets the pinned version back, whole, also from a learner that was started anew."""
    store = MemoryStore("m")
    token = store.take_token()
    publish(store, 1, 0, token)
    publish(store, 2, 1, token)
    store.pin(1)
    PinKeeper(store, tmp_path).look()
    store.wipe()
    PinKeeper(store, tmp_path).look()
    assert store.pinned() == 1
    assert values(store, 1) == [1]


def test_what_was_let_go_stays_away(tmp_path: Path) -> None:
    """After an unpin a wiped store gets nothing back; and a later decision replaces the one that was kept."""
    store = MemoryStore("m")
    token = store.take_token()
    publish(store, 1, 0, token)
    publish(store, 2, 1, token)
    keeper = PinKeeper(store, tmp_path)
    store.pin(1)
    keeper.look()
    store.pin(2)
    keeper.look()
    store.wipe()
    keeper.look()
    assert store.pinned() == 2
    store.pin(0)
    keeper.look()
    store.wipe()
    keeper.look()
    PinKeeper(store, tmp_path).look()
    assert store.pinned() is None


def test_a_garbled_copy_is_forgotten(tmp_path: Path) -> None:
    """A copy that can't be read is told and dropped; the learner goes on."""
    store = MemoryStore("m")
    publish(store, 1, 0, store.take_token())
    store.pin(1)
    PinKeeper(store, tmp_path).look()
    (tmp_path / "version").write_bytes(b"\x00")
    store.wipe()
    PinKeeper(store, tmp_path).look()
    assert store.pinned() is None
