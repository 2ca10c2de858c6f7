"""The protocol of snapshots as a state machine: whoever reads sees one whole version, or none."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from stream.runtime.errors import BadSnapshot, Fenced
from stream.runtime.settings import Settings
from stream.snapshots.manifest import UNDECIDED, Decision, Head, Manifest, PartVersion
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.store import SnapshotStore, fetch
from tests.support.small_versions import put, redis_copy, version_of
from thalweg.stack.stack import Stack

clock = itertools.count(1)  # so memory stores number decisions


@dataclass
class Learner:
    """A publisher as the protocol sees it: it may die between any two steps, or wake up long after its time."""

    token: int
    version: int
    parent: int
    parts: PartVersion | None = None
    says: list[int] = field(default_factory=list)  # what the contents of `parts` say
    drafted: tuple[PartVersion, list[int]] | None = None  # blobs are put, the manifest isn't


@dataclass
class Keeper:
    """Somebody who has seen decisions: the latest, and the version that it pins."""

    decision: Decision = UNDECIDED
    manifest: Manifest | None = None
    says: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Copy:
    """A replica that falls behind, and what was true when it did."""

    fail_over: Callable[[], None]
    said: dict[int, list[int]]
    decision: Decision
    newest_token: int


class Protocol(RuleBasedStateMachine):
    """Publish, crash between any two steps, merge, fold, collect, pin, wipe, failover, zombie; in a MemoryStore."""

    store: SnapshotStore = MemoryStore("m")

    def __init__(self) -> None:
        super().__init__()
        self.clear()
        self.said: dict[int, list[int]] = {}  # what each version says, as published last
        self.keeper = Keeper()
        self.replica: Copy | None = None
        self.returned: set[int] = set()  # versions that were put back
        self.learners: list[Learner] = []
        self.value = 0
        self.decision = UNDECIDED  # that the store knows
        self.numbered = 0  # the greatest number of all decisions that were ever made
        self.newest_token = 0  # that the store knows

    def clear(self) -> None:
        """An empty store."""
        self.store = MemoryStore("m", clock.__next__)

    def copied(self) -> Callable[[], None]:
        """Copy the store; what this returns makes it as it is now."""
        assert isinstance(self.store, MemoryStore)
        return partial(self.store.fail_over, self.store.replica())

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
        """The newest stay, from the head's on, and what is pinned."""
        before, head = self.store.versions(), self.store.head()
        self.store.retain(count)
        oldest = min([*before[-count:], *([head.version] if head else [])], default=0)
        assert self.store.versions() == [v for v in before if v >= oldest or v == self.decision.version]

    @precondition(lambda self: self.store.versions())
    @rule(data=st.data(), seen=st.booleans())
    def decide(self, data: st.DataObject, seen: bool) -> None:
        """A person pins one of the versions that are kept; the keeper may see it at once."""
        self.decided(data.draw(st.sampled_from(self.store.versions())))
        if seen:
            self.look()

    @rule(seen=st.booleans())
    def let_go(self, seen: bool) -> None:
        """A person lets go of what was pinned."""
        self.decided(0)
        if seen:
            self.look()

    def decided(self, version: int) -> None:
        """Whatever the store has forgotten: what is decided now is later than all that was."""
        self.store.pin(version)
        self.decision = self.store.decision()
        assert self.decision.version == version
        assert self.decision.number > self.numbered
        self.numbered = self.decision.number

    @rule()
    def look(self) -> None:
        """The keeper keeps the latest decision, or puts back what the store has lost."""
        keeper, decision = self.keeper, self.store.decision()
        if decision.number >= keeper.decision.number:
            pinned = decision.version
            manifest = self.store.manifest(pinned) if pinned else None
            self.keeper = Keeper(decision, manifest, self.said[pinned] if pinned else [])
            return
        for value in keeper.says:
            put(self.store, value)
        manifest, kept = keeper.manifest, self.store.versions()
        taken = manifest is not None and manifest.version in kept and self.store.manifest(manifest.version) != manifest
        try:
            self.store.restore_decision(keeper.decision, manifest)
        except BadSnapshot:
            assert taken, "another version has this number since"
            return
        assert not taken
        self.decision = keeper.decision
        if manifest is not None:
            self.said[manifest.version] = keeper.says
            self.returned.add(manifest.version)

    @precondition(lambda self: len(self.store.versions()) > 2)
    @rule(put_back=st.booleans())
    def wipe(self, put_back: bool) -> None:
        """The store forgets everything; most often the keeper notices at once."""
        self.clear()
        self.decision, self.newest_token, self.replica = UNDECIDED, 0, None
        if put_back:
            self.look()

    @rule()
    def fall_behind(self) -> None:
        """A replica hears nothing from now on."""
        self.replica = Copy(self.copied(), dict(self.said), self.decision, self.newest_token)

    @precondition(lambda self: self.learners)
    @rule(data=st.data(), count=st.integers(1, 3), seen=st.booleans(), put_back=st.booleans())
    def miss_a_decision(self, data: st.DataObject, count: int, seen: bool, put_back: bool) -> None:
        """A replica falls behind by some versions and a decision about one of them; then it takes over."""
        self.fall_behind()
        self.go_on(count, "base")
        if self.store.versions():
            self.decide(data, seen)
        self.fail_over(put_back)

    @precondition(lambda self: self.replica)
    @rule(put_back=st.booleans())
    def fail_over(self, put_back: bool) -> None:
        """The replica takes the store's place; most often the keeper notices at once."""
        assert self.replica is not None
        copy, self.replica = self.replica, None
        copy.fail_over()
        self.said, self.decision, self.newest_token = copy.said, copy.decision, copy.newest_token
        if put_back:
            self.look()

    @invariant()
    def every_version_is_whole(self) -> None:
        """All that can be asked for is there, whole, and says what was published under its number."""
        versions = self.store.versions()
        assert versions == sorted(set(versions))
        for version in versions:
            contents = self.store.manifest(version).parts["wide"].payloads()
            assert [int(fetch(self.store, digests)["value"][0]) for digests in contents] == self.said[version]

    @invariant()
    def head_and_pin_are_there(self) -> None:
        """The head is the newest version but for what was put back; the decision is the last that the store has got."""
        head, versions = self.store.head(), self.store.versions()
        if head:
            assert head.version in versions
            assert all(version in self.returned for version in versions if version > head.version)
        assert self.store.decision() == self.decision
        assert self.decision.version in (0, *versions)


def test_protocol_in_memory() -> None:
    """In memory, whatever happens in whatever order."""
    run_state_machine_as_test(Protocol, settings=settings(max_examples=300, stateful_step_count=40, deadline=None))


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

            def copied(self) -> Callable[[], None]:
                return redis_copy(client, f"{{{topic_prefix}*")

        with contextlib.closing(one):
            yield InRedis


def test_protocol_in_redis(in_redis: type[Protocol]) -> None:
    """In a real Redis likewise."""
    run_state_machine_as_test(
        in_redis,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
