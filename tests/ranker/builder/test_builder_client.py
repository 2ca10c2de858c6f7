"""Versions that another process builds: the same, and whatever happens to that process, the ranker goes on."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from learner.publishing.version_builder import VersionBuilder
from learner.training.model import Model
from ranker.builder import builder_client
from ranker.builder.blocks import allocate, array_ref, block_of, map_arrays
from ranker.builder.builder_client import BuilderClient, BuilderProcess, start_builder
from ranker.builder.builder_worker import serve
from ranker.builder.version_saver import VersionSaver
from ranker.builder.wire import SaveRequest
from ranker.kernels.item_activation_cache import ActivationCache, ItemInputs
from ranker.kernels.net import Embeddings, Net
from ranker.kernels.plan import Plan
from ranker.kernels.retrieval import together_with
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.version_watcher import VersionWatcher
from ranker.versions.model import Version, score_features
from ranker.versions.version_loader import VersionLoader, load_version
from stream.runtime.errors import BadSnapshot, StoreUnavailable
from stream.runtime.settings import Settings
from stream.snapshots.item_names import ITEMS_PART, pack_names
from stream.snapshots.manifest import UNDECIDED, Decision, PartVersion
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import digests_of, pack, split
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.version_files import VersionFiles
from stream.tables.dtypes import F32
from tests.support.changing_world import RETRIEVAL, mixed_log
from tests.support.learner_world import small_spec
from tests.support.random_models import ToyModel, some_spec
from tests.support.waiting import wait_until
from thalweg.stack.server import start_time
from thalweg.stack.stack import Stack


def in_a_thread(store: MemoryStore, loaders: list[VersionLoader] | None = None) -> Callable[[], BuilderProcess]:
    """A builder that is a thread: what it builds goes through the same messages and blocks."""

    def start() -> BuilderProcess:
        ours, theirs = socket.socketpair()
        loader = VersionLoader(store, store.model, allocate)
        if loaders is not None:
            loaders.append(loader)

        def work() -> None:
            with theirs, closing(VersionSaver(store)) as saver:
                serve(theirs, loader, saver)

        thread = threading.Thread(target=work)
        thread.start()

        def end() -> str:
            ours.shutdown(socket.SHUT_RDWR)
            thread.join()
            return ""

        return BuilderProcess(ours, end)

    return start


def builders(pid: int) -> list[int]:
    """The builders among a process's children."""
    found = subprocess.run(
        ["pgrep", "-P", str(pid), "-f", "ranker.builder.builder_worker"], capture_output=True, text=True
    ).stdout
    return [int(line) for line in found.split()]


@pytest.fixture
def model_and_store() -> tuple[ToyModel, MemoryStore]:
    """A model whose first version is published."""
    model, store = ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 5), MemoryStore("m")
    model.learn()
    model.publish(store)
    return model, store


@contextmanager
def building(store: MemoryStore) -> Iterator[BuilderClient]:
    """A builder that is closed afterwards."""
    with closing(BuilderClient(in_a_thread(store))) as builder:
        yield builder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder always knows the hottest items."""
    monkeypatch.setattr(builder_client, "HOTTEST_EVERY_S", 0.0)


@pytest.mark.parametrize("parts", [["wide", "deep"], ["wide"], ["deep"]])
@pytest.mark.parametrize("seed", range(4))
def test_a_version_from_elsewhere_is_the_same(parts: list[str], seed: int) -> None:
    """Over bases, merges, deltas and folds, bit by bit; also one that stays in use while later ones come."""
    model, store = ToyModel(some_spec(np.random.default_rng(seed), parts), seed), MemoryStore("m")
    pages = [model.page(n) for n in (1, 12, 30)]

    def scores(version: Version) -> list[bytes]:
        return [score_features(version, page.tobytes(), int(page[1])).tobytes() for page in pages]

    with building(store) as builder:
        loader, here, there = VersionLoader(store, "m"), None, None
        older: list[tuple[Version, list[bytes]]] = []
        for step in ["base", *np.random.default_rng(seed).choice(["delta", "delta", "delta", "merged", "base"], 14)]:
            model.learn(5)
            model.publish(store, step)
            here, there = loader.load(model.number, here), builder.load(model.number, there)
            assert scores(there) == scores(here)
            older.append((there, scores(here)))
        for version, had in older:
            assert scores(version) == had


def test_what_is_kept_for_retrieval_comes_from_elsewhere() -> None:
    """Items' lists and vectors are those that this process would load; unchanged ones are shared."""
    spec = small_spec(**{"[label]": f'{RETRIEVAL}\n[label]\norganic = "examples"'})
    model, store = Model(spec), MemoryStore(spec.name)
    cutter, token, log = VersionBuilder(model), store.take_token(), mixed_log(spec, 200)
    with building(store) as builder:
        loader = VersionLoader(store, spec.name)
        here: Version | None = None
        there: Version | None = None
        before: Version | None = None
        for number in range(1, 12):
            if number < 11:
                for offset in range(6 * number - 6, 6 * number):
                    model.learn(log[offset], offset)
            cut = cutter.build(number, number - 1, token, 6 * number, 0, {}, deep=number < 11)
            store.put_blobs(cut.blobs)
            store.publish(cut.manifest)
            before = there
            here, there = loader.load(number, here), builder.load(number, there)
            assert here.learned_items is not None
            assert there.learned_items is not None
            mine, theirs = here.learned_items.view.vectors, there.learned_items.view.vectors
            order, others = np.argsort(mine.ids), np.argsort(theirs.ids)
            assert mine.outputs[:, order].tobytes() == theirs.outputs[:, others].tobytes()
            history = mine.ids[order][:9].copy()
            found = [together_with(one.view.rows, history) for one in (here.learned_items, there.learned_items)]
            assert found[0][1].tobytes() == found[1][1].tobytes()
        assert before is not None
        assert before.learned_items is not None
        assert there is not None
        assert there.learned_items is not None
        assert there.learned_items.view is before.learned_items.view


def test_new_dense_layers_come_with_the_hottest_items_parts(
    model_and_store: tuple[ToyModel, MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranker computes none that the builder could: it gets those of all items that it ranked."""
    model, store = model_and_store
    given: list[int] = []
    Known = tuple[ItemInputs, F32] | None

    def noted(
        plan: Plan, embeddings: Embeddings, net: Net, before: ActivationCache | None, known: Known
    ) -> ActivationCache:
        given.append(0 if known is None else len(known[0].keys))
        return ActivationCache(plan, embeddings, net, None, known)

    monkeypatch.setattr(builder_client, "ActivationCache", noted)
    page, items = model.page(30), [0]
    with building(store) as builder:
        version = builder.load(1)
        for number in (2, 3, 4):
            score_features(version, page.tobytes(), 30)
            assert version.tower is not None
            items.append(version.tower.items.live.table.count - 1)
            model.learn()
            model.publish(store)
            version = builder.load(number, version)
        loader = VersionLoader(store, "m")
        assert (score_features(version, page.tobytes(), 30) == score_features(loader.load(4), page.tobytes(), 30)).all()
    assert given == items
    assert items[1] > 10


def test_names_of_shown_items_come_along() -> None:
    """With the version that brings them; the same object while they stay, through the builder and without it."""
    model, store = ToyModel(some_spec(np.random.default_rng(0), ["wide", "deep"]), 0), MemoryStore("m")
    shown = [(), ("a", "b"), ("a", "b"), ("a", "b", "ü")]
    with building(store) as builder:
        for load in (builder.load, VersionLoader(store, "m").load):
            versions: list[Version] = []
            for names in shown:
                model.publish(store)
                store_names(store, model, names)
                versions.append(load(model.number, versions[-1] if versions else None))
            assert [version.shown for version in versions] == shown
            assert versions[1].shown is versions[2].shown


def test_garbled_names_are_refused(model_and_store: tuple[ToyModel, MemoryStore]) -> None:
    """A version whose names can't be read isn't served."""
    model, store = model_and_store
    raw = pack({"names": np.zeros(3, np.uint8), "ends": np.array([9], np.int64)})
    store.put_blobs(split(raw))
    model.publish_parts(store, {**model.parts, ITEMS_PART: PartVersion(digests_of(raw))})
    with building(store) as builder, pytest.raises(BadSnapshot, match="names of items"):
        builder.load(model.number)


def store_names(store: MemoryStore, model: ToyModel, names: tuple[str, ...]) -> None:
    """Publish one more version, which names these items."""
    raw = pack(pack_names(names))
    store.put_blobs(split(raw))
    model.publish_parts(store, {**model.parts, ITEMS_PART: PartVersion(digests_of(raw))})


def test_what_was_read_of_pairs_stays() -> None:
    """The next version has the same cells as long as its table is the same one, though each was sent again."""
    model, store = ToyModel(some_spec(np.random.default_rng(0), ["wide", "deep"]), 0), MemoryStore("m")
    with building(store) as builder:
        model.learn(2)
        model.publish(store, "base")
        first = builder.load(1)
        model.learn(1)
        model.publish(store)
        second = builder.load(2, first)
    assert second.wide.base is first.wide.base
    assert second.wide.delta is first.wide.delta
    assert second.pairs.live.weights is first.pairs.live.weights


def test_why_a_version_is_rejected_is_reported(model_and_store: tuple[ToyModel, MemoryStore]) -> None:
    """A bad one, one that breaks the loader, a store that is away: each as the loader says, and the next is built."""
    model, store = model_and_store
    loaders: list[VersionLoader] = []
    with closing(BuilderClient(in_a_thread(store, loaders))) as builder:
        first = builder.load(1)
        with pytest.raises(BadSnapshot, match="isn't kept"):
            builder.load(7, first)
        loader = loaders[0]
        for error, expected in (
            (StoreUnavailable("Redis is away"), StoreUnavailable),
            (ZeroDivisionError("a bug"), RuntimeError),
            (RuntimeError("another bug"), RuntimeError),
            (OSError("no memory"), StoreUnavailable),
        ):
            with pytest.MonkeyPatch.context() as patch:

                def failing(*_: object, error: Exception = error) -> None:
                    raise error

                patch.setattr(loader, "_build", failing)
                with pytest.raises(expected, match=str(error)):
                    builder.load(1, first)
        model.learn()
        model.publish(store)
        assert builder.load(2, first).number == 2
        assert len(loaders) == 1


def test_who_has_another_version_gets_all_of_the_next(model_and_store: tuple[ToyModel, MemoryStore]) -> None:
    """After a version from elsewhere, or none, the builder's last one doesn't count."""
    model, store = model_and_store
    with building(store) as builder:
        builder.load(1)
        for number, previous in ((2, None), (3, load_version(store, "m", 1))):
            model.learn()
            model.publish(store)
            version, page = builder.load(number, previous), model.page(9)
            want = score_features(load_version(store, "m", number), page.tobytes(), 9)
            assert (score_features(version, page.tobytes(), 9) == want).all()


def test_the_builder_saves_what_is_live(model_and_store: tuple[ToyModel, MemoryStore], tmp_path: Path) -> None:
    """Version and decision are in the folder when `save` returns, and serve a start without a store."""
    model, store = model_and_store
    files = VersionFiles(tmp_path / "saved")
    with building(store) as builder:
        for number in (1, 2):
            builder.save(files, builder.load(number).manifest, Decision(number, number))
            assert (files.decision(), VersionLoader(files, "m").load(number).number) == (
                Decision(number, number),
                number,
            )
            model.learn()
            model.publish(store)


def test_a_save_that_fails_is_tried_again(model_and_store: tuple[ToyModel, MemoryStore], tmp_path: Path) -> None:
    """Its reason is raised where it was asked for; builds go on."""
    _, store = model_and_store
    folder = tmp_path / "saved"
    folder.write_text("a file in its place")
    files = VersionFiles(folder)
    with building(store) as builder:
        manifest = builder.load(1).manifest
        for _ in range(2):
            with pytest.raises(OSError, match="saved"):
                builder.save(files, manifest, UNDECIDED)
        folder.unlink()
        builder.save(files, manifest, UNDECIDED)
    assert files.load() == manifest


def test_a_save_in_the_way_of_another_is_waited_for() -> None:
    """One save at a time: the next one begins when the one before is done, and each asks for its own."""
    began, go_on = threading.Event(), threading.Event()

    class Slow(VersionSaver):
        def _save(self, request: SaveRequest) -> None:
            began.set()
            assert go_on.wait(20)

    first, second = (SaveRequest(folder, b"", UNDECIDED) for folder in ("a", "b"))
    with closing(Slow(MemoryStore("m"))) as saver:
        assert not saver.ask(first).done
        assert began.wait(20)
        assert not saver.ask(second).done
        go_on.set()
        wait_until(lambda: saver.ask(first).done)
        wait_until(lambda: saver.ask(second).done)


def test_a_builder_that_dies_is_followed_by_another(model_and_store: tuple[ToyModel, MemoryStore]) -> None:
    """The live version stays, the store counts as unavailable for a moment, then the next version is served."""
    model, store = model_and_store
    starts: list[BuilderProcess] = []
    start = in_a_thread(store)

    def noted() -> BuilderProcess:
        starts.append(start())
        return starts[-1]

    with closing(BuilderClient(noted)) as builder:
        watcher = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, loader=builder)
        assert watcher.step()
        model.learn()
        model.publish(store)
        starts[0].end()
        with pytest.raises(StoreUnavailable, match="has ended"):
            watcher.step()
        assert watcher.served is not None
        assert watcher.served.version.number == 1
        page = model.page(5)
        score_features(watcher.served.version, page.tobytes(), 5)
        assert watcher.step()
        assert watcher.served.version.number == 2
    assert len(starts) == 2
    with pytest.raises(StoreUnavailable, match="ending"):
        builder.load(3)


def test_a_builder_that_cant_be_started_refuses_no_version(model_and_store: tuple[ToyModel, MemoryStore]) -> None:
    """What the machine lacks for a moment isn't the version's fault: it's tried again."""
    _, store = model_and_store
    start, lacking = in_a_thread(store), [OSError("no process can be started")] * 2

    def starting() -> BuilderProcess:
        if lacking:
            raise lacking.pop()
        return start()

    with closing(BuilderClient(starting)) as builder:
        watcher = VersionWatcher(store, "m", EntityCache(), lambda: 2_000_100, loader=builder)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="no process can be started"):
                watcher.step()
        assert watcher.rejection == ""
        assert watcher.step()


def test_arrays_are_seen_from_both_sides_and_leave_nothing_behind() -> None:
    """What one writes the other reads, without a copy; descriptors go with the arrays."""
    before = len(os.listdir("/dev/fd"))
    made = allocate((3, 4), np.float32)
    ((_, seen),) = map_arrays([array_ref(made)], [os.dup(block_of(made).descriptor)]).items()
    made[1, 2] = 7.0
    assert seen[1, 2] == 7.0
    seen[0, 0] = 5.0
    assert made[0, 0] == 5.0
    assert allocate((0, 4), np.uint64).shape == (0, 4)
    del made
    assert seen[1, 2] == 7.0
    del seen
    assert len(os.listdir("/dev/fd")) == before


def test_the_process_builds_ends_with_the_ranker_and_is_replaced(stack: Stack, topic_prefix: str) -> None:
    """On a real Redis: a version, a kill, another version; and none is left when the ranker is killed."""
    settings = Settings(redis=stack.redis, topic_prefix=topic_prefix)
    model = ToyModel(some_spec(np.random.default_rng(0), ["wide", "deep"]), 0)
    with (
        closing(RedisStore(settings, "m")) as store,
        closing(BuilderClient(lambda: start_builder(settings, "m"))) as builder,
    ):
        model.learn(3)
        model.publish(store, "base")
        page = model.page(9)
        first = builder.load(1)
        want = score_features(load_version(store, "m", 1), page.tobytes(), 9)
        assert (score_features(first, page.tobytes(), 9) == want).all()
        for child in builders(os.getpid()):
            os.kill(child, signal.SIGKILL)
        with pytest.raises(StoreUnavailable, match="exit status -9"):
            builder.load(1, first)
        assert builder.load(1, first).number == 1
        assert (score_features(first, page.tobytes(), 9) == want).all()
    code = (
        "import sys, os; from ranker.builder.builder_client import BuilderClient, start_builder;"
        "from stream.runtime.settings import Settings;"
        f"b = BuilderClient(lambda: start_builder(Settings(redis={stack.redis!r}), 'm')); b.start();"
        "print('up', flush=True); sys.stdin.read()"
    )
    ranker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert ranker.stdout is not None
    assert ranker.stdin is not None
    assert ranker.stdout.readline() == b"up\n"
    (left,) = builders(ranker.pid)
    ranker.kill()
    ranker.wait()
    ranker.stdin.close()
    ranker.stdout.close()
    wait_until(lambda: not start_time(left), "the builder to end with its ranker")
