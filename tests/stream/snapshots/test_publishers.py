"""Whatever publishers do and whenever they die: a reader sees one whole version, or none."""

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as how
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stream.runtime.errors import BadSnapshot, Fenced
from stream.snapshots.manifest import Head
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import digests_of
from stream.snapshots.store import SnapshotStore
from tests.support.small_versions import put, raw_of, values, version_of


class Publishers(RuleBasedStateMachine):
    """Learners that publish, crash and are fenced, over a store that is swept and wiped."""

    def __init__(self) -> None:
        super().__init__()
        self.store: SnapshotStore = MemoryStore("m")
        self.tokens = [self.store.take_token()]
        self.greatest = self.tokens[0]  # that the store knows
        self.kept: dict[int, list[int]] = {}  # what each version that must be there says
        self.head: Head | None = None
        self.orphans: set[int] = set()
        self.said = 0

    def cut(self, full: bool) -> list[int]:
        """The next contents: a base of their own, or a delta after those of the head."""
        self.said += 1
        before = self.kept[self.head.version] if self.head and not full else []
        return [*before[-3:], self.said]

    @rule()
    def start(self) -> None:
        """A learner takes over."""
        token = self.store.take_token(max(self.tokens))
        assert token > max(self.tokens)
        self.tokens.append(token)
        self.greatest = token

    @rule(full=st.booleans())
    def crash(self, full: bool) -> None:
        """A learner is killed between its blobs and its manifest."""
        for value in self.cut(full):
            put(self.store, value)
        self.orphans.add(self.said)

    @rule(
        full=st.booleans(),
        step=st.integers(1, 3),
        zombie=st.integers(0, 2),
        stray=st.integers(0, 3),
        sweep=st.booleans(),
    )
    def publish(self, full: bool, step: int, zombie: int, stray: int, sweep: bool) -> None:
        """A learner, perhaps one that was fenced, publishes after the head, or after another version."""
        token = self.tokens[max(len(self.tokens) - 1 - zombie, 0)]
        at = self.head.version if self.head else 0
        says = self.cut(full)
        contents = [put(self.store, value) for value in says]
        self.orphans.add(self.said)
        if sweep:
            self.retain(1)
        manifest = version_of(at + step, max(at - stray, 0), token, *contents)
        if token < self.greatest:
            with pytest.raises(Fenced):
                self.store.publish(manifest)
        elif self.head and manifest.parent != at:
            with pytest.raises(BadSnapshot):
                self.store.publish(manifest)
        else:
            self.store.publish(manifest)
            self.kept[manifest.version] = says
            self.head = Head(manifest.version, token)
            self.greatest = token

    @rule(count=st.integers(1, 4))
    def retain(self, count: int) -> None:
        """Old versions go."""
        self.store.retain(count)
        self.kept = {version: self.kept[version] for version in sorted(self.kept)[-count:]}

    @rule()
    def wipe(self) -> None:
        """Redis starts again, empty."""
        assert isinstance(self.store, MemoryStore)
        self.store.wipe()
        self.kept, self.head, self.greatest = {}, None, 0
        self.orphans.clear()

    @precondition(lambda self: self.orphans)
    @rule()
    def sweep(self) -> None:
        """A while later, nothing is left of what no kept version names."""
        self.start()
        for _ in range(2):
            self.publish(full=True, step=1, zombie=0, stray=0, sweep=False)
            self.retain(1)
        for value in self.orphans - {value for says in self.kept.values() for value in says}:
            with pytest.raises(BadSnapshot):
                self.store.get_blob(digests_of(raw_of(value))[0])
        self.orphans.clear()

    @invariant()
    def whole_or_none(self) -> None:
        """A reader sees the head's version whole, or none; every kept version is whole."""
        assert self.store.head() == self.head
        assert self.store.versions() == sorted(self.kept)
        for version, says in self.kept.items():
            assert values(self.store, version) == says


TestPublishers = Publishers.TestCase
TestPublishers.settings = how(max_examples=60, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow])
