"""The protocol of snapshots as a state machine: whoever reads sees one whole version, or none."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from stream.errors import BadSnapshot, Fenced
from stream.memory_store import MemoryStore
from stream.redis_store import RedisStore
from stream.settings import Settings
from stream.snapshot import Head, Manifest, PartVersion, SnapshotStore, fetch
from tests.stream.snapshots import put, version_of
from thalweg.stack import Stack


@dataclass
class Learner:
    """A publisher as the protocol sees it: it may die between any two steps, or wake up long after its time."""

    token: int
    version: int
    parent: int
    parts: PartVersion | None = None
    says: list[int] = field(default_factory=list)  # what the contents of `parts` say
    drafted: tuple[PartVersion, list[int]] | None = None  # blobs are put, the manifest isn't


class Protocol(RuleBasedStateMachine):
    """Publish, crash between any two steps, merge, fold, collect, pin, wipe, zombie; in a MemoryStore."""

    store: SnapshotStore = MemoryStore("m")

    def __init__(self) -> None:
        super().__init__()
        self.clear()
        self.said: dict[int, list[int]] = {}  # what each version says, as published last
        self.kept: Manifest | None = None  # a pinned version that somebody has kept for a wipe
        self.learners: list[Learner] = []
        self.value = 0
        self.pin = 0
        self.known_pin = False
        self.newest_token = 0  # that the store knows

    def clear(self) -> None:
        """An empty store."""
        self.store = MemoryStore("m")

    @rule()
    def start(self) -> None:
        """A learner starts: it takes a token, so whoever was there is a zombie from now on."""
        token = self.store.take_token(max([0, *(one.token for one in self.learners)]))
        assert token > self.newest_token
        self.newest_token = token
        head = self.store.head()
        known = max([0, *self.store.versions(), *(one.version for one in self.learners)])
        self.learners.append(Learner(token, known, head.version if head else 0))

    @precondition(lambda self: self.learners)
    @rule(which=st.integers(0, 3), how=st.sampled_from(["base", "delta", "merge"]), more=st.integers(1, 3))
    def draft(self, which: int, how: str, more: int) -> None:
        """Put the blobs of a next version: a full base, one more delta, or all deltas merged into one."""
        learner = self.learners[-1 - which % len(self.learners)]
        fresh = list(range(self.value + 1, self.value + 1 + more))
        self.value += more
        digests = [put(self.store, value) for value in fresh]
        if learner.parts is None or how == "base":
            learner.drafted = PartVersion(digests[0], [], digests[1:]), fresh
        elif how == "merge":
            learner.drafted = PartVersion(learner.parts.base, digests[0], []), [learner.says[0], fresh[0]]
        else:
            held = learner.parts
            learner.drafted = PartVersion(held.base, held.merged, [*held.deltas, *digests]), [*learner.says, *fresh]

    @precondition(lambda self: any(one.drafted for one in self.learners))
    @rule(which=st.integers(0, 3), again=st.booleans())
    def publish(self, which: int, again: bool) -> None:
        """The manifest of what was drafted: out goes the youngest learner's, if its blobs are still there."""
        drafted = [one for one in self.learners if one.drafted]
        learner = drafted[-1 - which % len(drafted)]
        assert learner.drafted is not None
        parts, says = learner.drafted
        manifest = version_of(learner.version + 1, learner.parent, learner.token, parts.base)
        manifest = Manifest(**{name: getattr(manifest, name) for name in manifest.__struct_fields__} | {
            "parts": {"wide": parts}})  # fmt: skip
        before = self.store.head()
        learner.drafted = None
        try:
            self.store.publish(manifest)
            if again:
                self.store.publish(manifest)
        except Fenced:
            assert learner.token < self.newest_token
            assert self.store.head() == before
            self.learners.remove(learner)
        except BadSnapshot:
            assert self.store.head() == before
            learner.parts, learner.says = None, []  # a full base is next, on top of what is live
            learner.parent = before.version if before else 0
            learner.version = max([learner.version, *self.store.versions()])
        else:
            assert learner.token >= self.newest_token
            self.newest_token = learner.token
            assert self.store.head() == Head(manifest.version, learner.token)
            learner.parts, learner.says, learner.version = parts, says, manifest.version
            learner.parent = manifest.version
            self.said[manifest.version] = says

    @precondition(lambda self: self.learners)
    @rule(count=st.integers(1, 4), how=st.sampled_from(["base", "delta", "merge"]))
    def go_on(self, count: int, how: str) -> None:
        """The youngest learner publishes some versions in a row, as it does most of the time."""
        for _ in range(count):
            if self.learners:
                self.draft(0, how, 1)
                self.publish(0, False)

    @precondition(lambda self: len(self.learners) > 1)
    @rule(which=st.integers(0, 3))
    def kill(self, which: int) -> None:
        """A learner dies where it stands."""
        self.learners.pop(-1 - which % len(self.learners))

    @rule(count=st.integers(1, 4))
    def collect(self, count: int) -> None:
        """The newest stay, and what is pinned."""
        before = self.store.versions()
        self.store.retain(count)
        assert self.store.versions() == [v for v in before if v in before[-count:] or v == self.pin]

    @precondition(lambda self: self.store.versions())
    @rule(data=st.data())
    def decide(self, data: st.DataObject) -> None:
        """A person pins one of the versions that are kept, and the learner keeps it."""
        self.pin = data.draw(st.sampled_from(self.store.versions()))
        self.store.pin(self.pin)
        self.known_pin, self.kept = True, self.store.manifest(self.pin)

    @rule()
    def let_go(self) -> None:
        """A person lets go of what was pinned."""
        self.store.pin(0)
        self.pin, self.known_pin, self.kept = 0, True, None

    @precondition(lambda self: len(self.store.versions()) > 2)
    @rule()
    def wipe(self) -> None:
        """The store forgets everything; what was pinned is put back by who kept it."""
        self.clear()
        self.pin, self.known_pin, self.newest_token = 0, False, 0
        if self.kept is not None:
            for value in self.said[self.kept.version]:
                put(self.store, value)
            self.store.repin(self.kept)
            self.pin, self.known_pin = self.kept.version, True

    @invariant()
    def every_version_is_whole(self) -> None:
        """All that can be asked for is there, whole, and says what was published under its number."""
        versions = self.store.versions()
        assert versions == sorted(set(versions))
        for version in versions:
            contents = self.store.manifest(version).parts["wide"].contents()
            assert [int(fetch(self.store, digests)["value"][0]) for digests in contents] == self.said[version]

    @invariant()
    def head_and_pin_are_there(self) -> None:
        """The head is the newest version; the decision is the last one that was made."""
        head, versions = self.store.head(), self.store.versions()
        assert not head or head.version == versions[-1]
        assert self.store.pinned() == (self.pin if self.known_pin else None)
        assert not self.pin or self.pin in versions


def test_protocol_in_memory() -> None:
    """In memory, whatever happens in whatever order."""
    run_state_machine_as_test(Protocol, settings=settings(max_examples=200, stateful_step_count=40, deadline=None))


@pytest.fixture
def in_redis(stack: Stack, topic_prefix: str) -> Iterator[type[Protocol]]:
    """The protocol in a RedisStore."""
    with redis.Redis.from_url(stack.redis) as client:
        one = RedisStore(Settings(redis=stack.redis, topic_prefix=topic_prefix), "m")

        class InRedis(Protocol):
            store = one

            def clear(self) -> None:
                for key in client.scan_iter(f"{{{topic_prefix}*"):
                    client.delete(key)

        with contextlib.closing(one):
            yield InRedis


def test_protocol_in_redis(in_redis: type[Protocol]) -> None:
    """In a real Redis likewise."""
    run_state_machine_as_test(
        in_redis,
        settings=settings(
            max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
