"""All stores keep one contract: every check here is put to each, and Redis is one server or a cluster."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from stream.runtime.errors import BadSnapshot, Fenced
from stream.runtime.settings import Settings
from stream.snapshots.manifest import UNDECIDED, Head
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import BLOB_BYTES_MAX, digest_of, digests_of, split
from stream.snapshots.redis_client import connect
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.store import SnapshotStore
from tests.support.small_versions import AHEAD, publish, put, raw_of, redis_copy, values, version_of


@dataclass(frozen=True)
class Bench:
    """A fresh store, the same as another process would open it; how to wipe it, damage a blob, go back to a copy."""

    store: SnapshotStore
    again: Callable[[], SnapshotStore]
    wipe: Callable[[], None]
    damage: Callable[[str], None]
    copied: Callable[[], Callable[[], None]]  # call what this returns: the store is as it was, like after a failover


@pytest.fixture(params=["memory", "redis", "cluster"])
def bench(request: pytest.FixtureRequest, topic_prefix: str) -> Iterator[Bench]:
    """Each of the stores."""
    if request.param == "memory":
        memory = MemoryStore("m", itertools.count(1, 10_000).__next__)
        yield Bench(
            memory,
            lambda: memory,
            memory.wipe,
            lambda digest: memory._blobs.update({digest: b"other"}),
            lambda: partial(memory.fail_over, memory.replica()),
        )
        return
    if request.param == "cluster":
        url = request.getfixturevalue("redis_cluster")
    else:
        url = request.getfixturevalue("stack").redis
    settings = Settings(redis=url, topic_prefix=topic_prefix)
    with contextlib.ExitStack() as open_stores:
        client = open_stores.enter_context(contextlib.closing(connect(settings)))

        def again() -> RedisStore:
            return open_stores.enter_context(contextlib.closing(RedisStore(settings, "m")))

        def wipe() -> None:
            for key in client.scan_iter(f"{{{topic_prefix}*"):
                client.delete(key)

        def damage(digest: str) -> None:
            client.set(f"{one.prefix}:blob:{digest}", b"other")

        one = again()
        yield Bench(one, again, wipe, damage, lambda: redis_copy(client, f"{{{topic_prefix}*"))
        wipe()


@pytest.fixture
def store(bench: Bench) -> SnapshotStore:
    """Each of the stores, alone."""
    return bench.store


def test_nothing_yet(store: SnapshotStore) -> None:
    """Before the first publish there's no head, no version and nothing to drop."""
    assert store.head() is None
    assert store.versions() == []
    assert store.retain(1) == 0
    with pytest.raises(BadSnapshot, match="version 1 of m"):
        store.manifest(1)
    with pytest.raises(BadSnapshot, match="is missing"):
        store.get_blob(digest_of(b"never put"))


def test_what_is_published_is_read(bench: Bench) -> None:
    """Another process reads the manifest and the contents that were published, byte for byte."""
    token = bench.store.take_token()
    manifest = version_of(7, 0, token, put(bench.store, 70), put(bench.store, 71))
    bench.store.publish(manifest)
    reader = bench.again()
    assert reader.head() == Head(7, token)
    assert reader.manifest(7) == manifest
    assert values(reader, 7) == [70, 71]
    assert reader.versions() == [7]


def test_content_of_many_blobs(store: SnapshotStore) -> None:
    """A content larger than a blob comes back whole; putting it again changes nothing."""
    raw = b"ab" * (BLOB_BYTES_MAX // 2) * 2 + b"end"
    for _ in range(2):
        store.put_blobs(split(raw))
        assert b"".join(store.get_blob(digest) for digest in digests_of(raw)) == raw
    store.put_blobs({})


def test_empty_blob(store: SnapshotStore) -> None:
    """No bytes are bytes too."""
    store.put_blobs(split(b""))
    assert store.get_blob(digest_of(b"")) == b""


def test_memory_grows_with_blobs(store: SnapshotStore) -> None:
    """A store says how much memory is used, and how much there is."""
    before, raw = store.memory(), b"ab" * (1 << 20)
    store.put_blobs(split(raw))
    assert before.used + len(raw) <= store.memory().used < before.limit


def test_damaged_blob_is_renewed(bench: Bench) -> None:
    """Bytes that aren't their digest's are refused until they're written again; a plain put leaves what is there."""
    publish(bench.store, 1, 0, bench.store.take_token())
    (digest,) = digests_of(raw_of(1))
    bench.damage(digest)
    for _ in range(2):
        with pytest.raises(BadSnapshot, match=f"{digest} of m has other bytes.*full base"):
            values(bench.again(), 1)
        put(bench.store, 1)
    more = split(raw_of(2))
    bench.store.put_blobs(split(raw_of(1)) | more, renew=True)
    assert values(bench.again(), 1) == [1]
    assert {name: bench.store.get_blob(name) for name in more} == more


def test_blob_under_a_wrong_digest(store: SnapshotStore) -> None:
    """Bytes never get in under another name than their own, and never over their limit."""
    with pytest.raises(AssertionError, match="another digest"):
        store.put_blobs({digest_of(b"a"): b"b"})
    large = bytes(BLOB_BYTES_MAX + 1)
    with pytest.raises(AssertionError, match="bytes"):
        store.put_blobs({digest_of(large): large})


def test_tokens_rise(bench: Bench) -> None:
    """Each token is greater than all before, whoever took them, and than what the learner says it knows."""
    other = bench.again()
    first, second = bench.store.take_token(), other.take_token()
    assert 0 < first < second
    third = bench.store.take_token(second + 1_000_000)
    assert third == second + 1_000_001
    assert other.take_token(50) == third + 1


def test_token_after_a_wipe(bench: Bench) -> None:
    """A wiped store counts on from the head of whoever published since, and from what the learner knows."""
    token = bench.store.take_token(AHEAD)
    publish(bench.store, 1, 0, token)
    bench.wipe()
    publish(bench.store, 2, 1, token)
    assert bench.again().take_token() == token + 1
    bench.wipe()
    assert bench.store.take_token(token + 1) == token + 2


def test_whoever_takes_a_token_later_has_the_greater_one(bench: Bench) -> None:
    """Whatever the store has lost: over a wiped one, or an older copy, an elder moves nothing that the younger owns."""
    copied = bench.copied()
    for lose in (bench.wipe, copied):
        elder = max(bench.store.take_token() for _ in range(3))
        publish(bench.store, 1, 0, elder)
        time.sleep(0.01)  # the store's clock goes on
        lose()
        younger = bench.again().take_token()
        assert younger > elder
        publish(bench.store, 1, 0, younger)
        with pytest.raises(Fenced, match="another learner owns m"):
            publish(bench.store, 2, 1, elder)
        bench.wipe()


def test_older_token_is_fenced(bench: Bench) -> None:
    """From the moment at which another takes a token, its elder moves nothing, and learns why."""
    elder = bench.store.take_token()
    publish(bench.store, 1, 0, elder)
    younger = bench.again().take_token()
    with pytest.raises(Fenced, match=f"another learner owns m: it took token {younger}"):
        publish(bench.store, 2, 1, elder)
    assert bench.store.head() == Head(1, elder)
    assert bench.store.versions() == [1]
    publish(bench.store, 2, 1, younger)
    assert bench.store.head() == Head(2, younger)


def test_head_only_moves_from_the_parent(store: SnapshotStore) -> None:
    """A version that follows another than the head is refused, and the head stays."""
    token = store.take_token()
    publish(store, 5, 0, token)
    for parent in (4, 6, 0):
        with pytest.raises(BadSnapshot, match=f"follows {parent}, not the head, 5"):
            publish(store, 7, parent, token)
    assert store.head() == Head(5, token)
    assert store.versions() == [5]


def test_head_never_moves_back(store: SnapshotStore) -> None:
    """Neither an older version nor another one of the same number gets out."""
    token = store.take_token()
    publish(store, 9, 0, token)
    publish(store, 10, 9, token)
    for version in (9, 10):
        with pytest.raises(BadSnapshot, match="isn't newer than 10, which the store already has"):
            store.publish(version_of(version, version - 1, token, put(store, 99)))
    assert values(store, 10) == [10]


def test_publishing_again_is_publishing_once(store: SnapshotStore) -> None:
    """A publisher that didn't hear the answer may say the same again."""
    token = store.take_token()
    for _ in range(2):
        publish(store, 1, 0, token)
    assert store.versions() == [1]
    assert store.head() == Head(1, token)


def test_version_with_a_blob_missing(store: SnapshotStore) -> None:
    """No version gets out of which a part is missing."""
    token = store.take_token()
    missing = digests_of(raw_of(2))
    with pytest.raises(BadSnapshot, match=f"{missing[0]}.*full base"):
        store.publish(version_of(1, 0, token, put(store, 1), missing))
    assert store.head() is None
    assert store.versions() == []


def test_wiped_store_takes_any_parent(bench: Bench) -> None:
    """After a wipe the live learner goes on with its next number, once its blobs are there."""
    token = bench.store.take_token()
    publish(bench.store, 1, 0, token)
    bench.wipe()
    assert bench.store.head() is None
    with pytest.raises(BadSnapshot, match="is missing"):
        bench.store.publish(version_of(2, 1, token, digests_of(raw_of(1))))
    publish(bench.store, 2, 1, token)
    assert bench.store.versions() == [2]


def test_retain_keeps_what_is_named(store: SnapshotStore) -> None:
    """The newest versions stay whole, with blobs that they share with dropped ones; the rest goes."""
    token = store.take_token()
    base = put(store, 0)
    for version in range(1, 6):
        store.publish(version_of(version, version - 1, token, base, put(store, version)))
    assert store.retain(5) == 0
    assert store.retain(2) == 3
    assert store.versions() == [4, 5]
    assert [values(store, version) for version in (4, 5)] == [[0, 4], [0, 5]]
    for version in (1, 2, 3):
        with pytest.raises(BadSnapshot):
            store.manifest(version)
        with pytest.raises(BadSnapshot):
            store.get_blob(digests_of(raw_of(version))[0])


def test_retain_spares_the_next_version(store: SnapshotStore) -> None:
    """Blobs that were just put stay until they are published, be they new or named by an old version only."""
    token = store.take_token()
    publish(store, 1, 0, token)
    publish(store, 2, 1, token)
    old, new = put(store, 1), put(store, 3)
    store.retain(1)
    store.publish(version_of(3, 2, token, old, new))
    assert values(store, 3) == [1, 3]


def test_retain_sweeps_after_a_killed_publisher(store: SnapshotStore) -> None:
    """Blobs put for a version that never came go when the versions after it are no longer kept."""
    token = store.take_token()
    orphan = put(store, 1_000)[0]
    for version in (1, 2, 3):
        publish(store, version, version - 1, token)
        store.retain(2)
    with pytest.raises(BadSnapshot):
        store.get_blob(orphan)
    assert values(store, 3) == [3]


def test_retain_drops_a_thousand(store: SnapshotStore) -> None:
    """However many there are to drop, one call drops them."""
    token = store.take_token()
    store.put_blobs({digest: blob for i in range(2_500) for digest, blob in split(b"%d" % i).items()})
    for version in (1, 2):
        publish(store, version, version - 1, token)
    assert store.retain(1) == 2_501


def test_pin_keeps_a_version(store: SnapshotStore) -> None:
    """A pinned version stays whole whatever is published after it, until another or none is pinned."""
    assert store.decision() == UNDECIDED
    token = store.take_token()
    base = put(store, 0)
    for version in range(1, 4):
        store.publish(version_of(version, version - 1, token, base, put(store, version)))
    store.pin(2)
    assert store.decision().version == 2
    for version in range(4, 9):
        publish(store, version, version - 1, token)
        store.retain(2)
    assert store.versions() == [2, 7, 8]
    assert values(store, 2) == [0, 2]
    store.pin(8)
    assert store.retain(2) == 2
    assert store.versions() == [7, 8]
    store.pin(0)
    assert store.decision().version == 0
    publish(store, 9, 8, token)
    store.retain(1)
    assert store.versions() == [9]


def test_only_what_is_whole_is_pinned(bench: Bench) -> None:
    """A version that isn't there can't be pinned, and the decision before stays."""
    token = bench.store.take_token()
    publish(bench.store, 1, 0, token)
    bench.store.pin(1)
    with pytest.raises(BadSnapshot, match="version 2 of m"):
        bench.store.pin(2)
    assert bench.again().decision().version == 1


def test_pin_after_a_wipe(bench: Bench) -> None:
    """Whoever kept a decision and its version puts both back; never over a later decision."""
    token = bench.store.take_token()
    publish(bench.store, 1, 0, token)
    bench.store.pin(1)
    decision, manifest = bench.store.decision(), bench.store.manifest(1)
    bench.wipe()
    assert bench.store.decision() == UNDECIDED
    with pytest.raises(BadSnapshot, match="is missing"):
        bench.store.restore_decision(decision, manifest)
    put(bench.store, 1)
    bench.store.restore_decision(decision, manifest)
    assert bench.again().decision() == decision
    assert bench.store.head() is None
    publish(bench.store, 2, 1, token)
    publish(bench.store, 3, 2, token)
    bench.store.retain(1)
    assert values(bench.store, 1) == [1]
    bench.store.pin(0)
    let_go = bench.store.decision()
    bench.store.restore_decision(decision, manifest)
    assert bench.store.decision() == let_go


def test_decisions_have_an_order(bench: Bench) -> None:
    """Each decision has a greater number than those before: than those that the store has forgotten, too."""
    store, token = bench.store, bench.store.take_token()
    publish(store, 1, 0, token)
    numbers = [store.decision().number]
    for version in (1, 0, 1, 1):
        store.pin(version)
        assert store.decision().version == version
        numbers.append(store.decision().number)
    fail_over = bench.copied()
    for _ in range(3):
        store.pin(0)
        numbers.append(store.decision().number)
    for forget in (fail_over, bench.wipe):
        forget()
        bench.again().pin(0)
        numbers.append(store.decision().number)
    assert numbers == sorted(set(numbers))


def test_a_lost_decision_is_put_back(bench: Bench) -> None:
    """An older copy gets the decision that it missed, be it to pin or to let go. The head and its version stay."""
    store, token = bench.store, bench.store.take_token()
    for version in (1, 2):
        publish(store, version, version - 1, token)
    store.pin(1)
    fail_over = bench.copied()
    publish(store, 3, 2, token)
    store.pin(3)
    later, manifest = store.decision(), store.manifest(3)
    store.pin(0)
    let_go = store.decision()
    fail_over()
    with pytest.raises(BadSnapshot, match="is missing"):
        store.restore_decision(later, manifest)
    put(store, 3)
    store.restore_decision(later, manifest)
    assert store.decision() == later
    assert store.head() == Head(2, token)
    store.retain(1)
    assert store.versions() == [2, 3], "the head's stays, though what was put back is newer"
    assert [values(store, version) for version in (2, 3)] == [[2], [3]]
    store.restore_decision(let_go, None)
    store.restore_decision(later, manifest)
    assert store.decision() == let_go


def test_what_is_put_back_takes_nothing_along(bench: Bench) -> None:
    """An old version is put back, let go of and collected: what it shares with the head stays."""
    store, token = bench.store, bench.store.take_token()
    base = put(store, 0)
    store.publish(version_of(1, 0, token, base))
    store.publish(version_of(2, 1, token, base, put(store, 2)))
    fail_over = bench.copied()
    store.pin(1)
    decision, manifest = store.decision(), store.manifest(1)
    fail_over()
    put(store, 0)
    store.restore_decision(decision, manifest)
    store.pin(0)
    store.retain(1)
    assert store.versions() == [2]
    assert values(store, 2) == [0, 2]


def test_a_lost_decision_about_a_number_that_was_given_again(bench: Bench) -> None:
    """It isn't put back: a number that another version has by now is that one's, and nothing is mixed."""
    store, token = bench.store, bench.store.take_token()
    fail_over = bench.copied()
    publish(store, 1, 0, token)
    store.pin(1)
    decision, manifest = store.decision(), store.manifest(1)
    fail_over()
    store.publish(version_of(1, 0, token, put(store, 77)))
    put(store, 1)
    with pytest.raises(BadSnapshot, match="version 1 of m, which was pinned, is another one"):
        store.restore_decision(decision, manifest)
    assert store.decision() == UNDECIDED
    assert values(store, 1) == [77]


def test_notice_wakes(bench: Bench) -> None:
    """Whoever waits is woken by a publish, long before its time is over."""
    token = bench.store.take_token()
    reader, woken = bench.again(), threading.Event()

    def wait() -> None:
        reader.wait(30)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    version = 0
    while not woken.wait(0.05) and version < 400:  # it may take a while to listen
        publish(bench.store, version + 1, version, token)
        version += 1
    thread.join(60)
    assert version < 400, "30 s went by"


def test_a_report_wakes_too(bench: Bench) -> None:
    """What a reader tells of a version is heard by whoever waits, and changes nothing."""
    publish(bench.store, 1, 0, bench.store.take_token())
    other, woken = bench.again(), threading.Event()

    def wait() -> None:
        other.wait(30)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(400):
        bench.store.report("version 1 is refused: because")
        if woken.wait(0.05):
            break
    thread.join(60)
    assert woken.is_set()
    assert bench.store.versions() == [1]


def test_wait_ends(store: SnapshotStore) -> None:
    """Without a notice, `wait` returns when its time is over; after `close`, at once."""
    store.wait(0.01)
    threading.Timer(0.05, store.close).start()
    before_s = time.monotonic()
    store.wait(60)
    assert time.monotonic() - before_s < 30
    store.close()


def test_reader_sees_whole_versions(bench: Bench) -> None:
    """While versions come and go, whoever follows the head reads one version, never a mixture."""
    token, reader, done = bench.store.take_token(), bench.again(), threading.Event()
    seen: list[tuple[int, list[int]]] = []
    failures: list[BadSnapshot] = []

    def read() -> None:
        while not done.is_set():
            head = reader.head()
            try:
                if head:
                    seen.append((head.version, values(reader, head.version)))
            except BadSnapshot as bad:
                if head and head.version in reader.versions():
                    failures.append(bad)

    thread = threading.Thread(target=read)
    thread.start()
    for version in range(1, 101):
        contents = [put(bench.store, 10 * version + part) for part in range(3)]
        bench.store.publish(version_of(version, version - 1, token, *contents))
        bench.store.retain(2)
    while not seen or seen[-1][0] < 100:  # the last stays: it can be read
        assert thread.is_alive(), "the reader failed"
        time.sleep(0.001)
    done.set()
    thread.join(30)
    assert failures == []
    assert all(said == [10 * version, 10 * version + 1, 10 * version + 2] for version, said in seen)
    assert [version for version, _ in seen] == sorted(version for version, _ in seen)
