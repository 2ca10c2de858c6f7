"""How many versions the store keeps."""

from learner.publishing.retention import LEAST, Retention
from stream.runtime.errors import SnapshotError
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.store import StoreMemory


class Store(MemoryStore):
    """A store that uses `used` of its memory, and says how many versions it was last asked to keep."""

    used = 0.5
    count = 0
    there = 1_000

    def memory(self) -> StoreMemory:
        """See SnapshotStore."""
        if self.used < 0:
            raise SnapshotError("Redis denies access")
        return StoreMemory(round(1_000 * self.used), 1_000)

    def versions(self) -> list[int]:
        """See SnapshotStore."""
        return list(range(self.there))

    def retain(self, count: int) -> int:
        """See SnapshotStore."""
        self.count, self.there = count, min(self.there, count)
        return 0


def test_a_store_that_is_nearly_full_keeps_fewer_versions() -> None:
    """Half as many each time, LEAST at least; as many as the settings say once there's room again."""
    store = Store("m")
    retention = Retention(store, 400)
    retention.apply()
    assert store.count == 400
    store.used = 0.9
    for kept in (200, 100, 50, 25, LEAST, LEAST):
        retention.apply()
        assert store.count == retention.kept == kept
    store.used = 0.6
    retention.apply()
    assert store.count == LEAST
    store.used = 0.1
    for kept in (32, 64, 128, 256, 400, 400):
        retention.apply()
        assert store.count == kept


def test_a_full_store_that_never_had_so_many_drops_half_of_what_it_has() -> None:
    """What is halved is what there is."""
    store = Store("m")
    store.there, store.used = 60, 0.9
    Retention(store, 1_000).apply()
    assert store.count == 30


def test_the_settings_may_ask_for_fewer_than_the_least() -> None:
    """Then as many are kept as they say."""
    store = Store("m")
    store.used = 0.9
    Retention(store, 2).apply()
    assert store.count == 2


def test_a_store_that_does_not_say_keeps_what_the_settings_say() -> None:
    """A login may lack the right to ask how full the store is."""
    store = Store("m")
    store.used = -1.0
    Retention(store, 400).apply()
    assert store.count == 400
