"""How many versions the store keeps."""

from learner.publishing.retention import LEAST, Retention
from stream.snapshots.memory_store import MemoryStore


class Store(MemoryStore):
    """A store that uses `used` of its memory, and says how many versions it was last told to keep."""

    used = 0.5
    count = 0
    there = 1_000

    def used_share(self) -> float:
        """See SnapshotStore."""
        return self.used

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
