"""A publisher over a memory store, with a clock that tests move."""

import time
from itertools import islice
from pathlib import Path

from learner.publishing.publisher import Publisher
from learner.publishing.uploader import PublishConfig
from learner.publishing.version_allocator import HighWater
from learner.training.model import Model
from stream.snapshots.memory_store import MemoryStore
from stream.spec.spec import Spec
from tests.support.learner_world import records, small_spec
from tests.support.waiting import wait_until


class Bench:
    """A publisher over a memory store, and a clock in hand. It has learned as much as what is live there."""

    def __init__(
        self, tmp_path: Path, store: MemoryStore | None = None, keep: int = 50, spec: Spec | None = None
    ) -> None:
        self.spec = spec or small_spec()
        self.log = iter(enumerate(records(self.spec, 600)))
        self.model, self.store = Model(self.spec), store or MemoryStore("small")
        self.ms = 1000
        cadence = PublishConfig(
            100, 300, keep_versions=keep, quarantine=tmp_path, pins=tmp_path / "pins", numbers=tmp_path / "numbers"
        )
        self.publisher = Publisher(self.model, self.store, cadence, lambda: self.ms, HighWater())
        head = self.store.head()
        learned = self.store.manifest(head.version).offset[0] if head else 0
        for offset, record in islice(self.log, learned):
            self.model.learn(record, offset)
        self.publisher.maybe_publish(learned)  # so that it's known how far it is
        wait_until(lambda: self.publisher.uploader.owns_model)

    def turn(self) -> bool:
        """Learn a record, let 100 ms pass, publish, wait until it has arrived."""
        offset, record = next(self.log)
        self.model.learn(record, offset)
        self.ms += 100
        published = self.publisher.maybe_publish(offset + 1)
        self.settle()
        return published

    def settle(self) -> None:
        """Until nothing is on its way, or the store is down."""
        until = time.monotonic() + 10
        while self.publisher.uploader.busy and self.store.answers:
            assert time.monotonic() < until
            time.sleep(0.001)
