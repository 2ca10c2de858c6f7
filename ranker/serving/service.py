"""`thalweg run ranker`: answers `rank.requests` by the live version and swaps in newer ones."""

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from ranker.builder.builder_client import BuilderClient, start_builder
from ranker.ranking.entity_cache import EntityCache, ItemConsumer
from ranker.ranking.jit_warmup import compile_kernels
from ranker.ranking.rank import Ranker
from ranker.ranking.score import SWITCH_S, Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.serving.profile_reader import ProfileReader, ReadProfiles
from ranker.serving.request_loop import RequestLoop
from stream.events.topics import REQUESTS
from stream.history.profiles import UserProfile, read_profiles
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START, Log
from stream.runtime.clock import now_ms
from stream.runtime.errors import LogError, LogGap, LogUnavailable
from stream.runtime.health import Health, run_file
from stream.runtime.settings import Settings
from stream.snapshots.redis_client import connect
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.store import SnapshotStore
from stream.snapshots.version_files import VersionFiles

GROUP: Final = "ranker"
POLL_S: Final = 0.1
FIRST_MODEL_S: Final = 10.0  # how long to wait for the first model before answering without one
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)

log = logging.getLogger(__name__)

T = TypeVar("T")


class RankerService:
    """All threads of one ranker. Log, store and `read` (of users' profiles) are passed in; `run` blocks until `stop`.

    `builder` builds versions, and `run` closes it; without one a thread of this process does.
    """

    def __init__(
        self,
        store: SnapshotStore,
        read: ReadProfiles,
        model: str,
        *,
        worker: str,
        threads: int,
        accept_gap: bool = False,
        files: VersionFiles | None = None,
        builder: BuilderClient | None = None,
    ) -> None:
        self.stop = threading.Event()
        self.state = "starting"  # "ready" while requests are answered
        self._worker, self._accept_gap = worker, accept_gap
        self._builder = builder
        self._cache = EntityCache()
        self._scorer = Scorer(threads)
        self._watcher = VersionWatcher(store, model, self._cache, now_ms, files, builder)
        self._ranker = Ranker(self._cache, self._watcher, self._scorer, now_ms)
        self._profiles = ProfileReader(read)
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    def ready(self) -> tuple[bool, str]:
        """For `/readyz`: whether requests are answered, and the state."""
        served = self._watcher.served
        version = f"version {served.version.number}" if served else "no model yet, ranking by static popularity"
        return self.state == "ready", f"{self.state} ({version})"

    def live(self) -> tuple[bool, str]:
        """For `/livez`: whether all threads run."""
        return not self._failures, "ok" if not self._failures else f"a thread has ended: {self._failures[0]!r}"

    def run(self, connect: Callable[[], Log]) -> None:
        """Answer until `stop` is set. Raises LogError when a retry won't help.

        `connect` opens the log; it's called again after LogUnavailable.
        """
        source: Log | None = None
        try:
            if self._builder:
                with suppress(OSError):  # the watcher retries
                    self._builder.start()  # while the ranker warms up
            self._watcher.restore()
            self._start("watch", self._watcher.run)
            self._start("save", self._watcher.run_saver)
            self.state = "waiting for the log"
            source = self._retried(connect)
            if source is not None:
                self._serve(source, connect)
        finally:
            self._join()
            if source is not None:
                self._close(source)
            self._scorer.close()
            self._profiles.close()
        if self._failures:
            raise self._failures[0]

    def _serve(self, source: Log, connect: Callable[[], Log]) -> None:
        items = ItemConsumer(source, self._cache, connect)
        self._start("consume", items.run)
        self.state = "warming up"
        self._profiles.begin(["warm-up"]).result()  # opens the connection before the first request
        compile_kernels(self._scorer)
        self.state = "reading items"
        while not items.ready.wait(0.1):
            if self.stop.is_set():
                return
        self._watcher.items_loaded()
        if self._watcher.served is None:
            self.state = "waiting for a model"
            until_s = time.monotonic() + FIRST_MODEL_S
            while not self._watcher.checked.wait(0.1) and time.monotonic() < until_s and not self.stop.is_set():
                pass
        gc.collect()
        gc.freeze()  # long-lived: full collections skip it
        self.state = "joining the group"
        reader = self._retried(lambda: source.group_reader(REQUESTS.name, GROUP, self._worker))
        if reader is None:
            return
        try:
            loop = RequestLoop(source, reader, self._ranker, self._profiles, self._watcher.freshness, now_ms)
            self.state = "ready"
            self._answer(loop, lambda gap: reader.seek(gap.partition, START))
        finally:
            reader.close()

    def _answer(self, loop: RequestLoop, skip_gap: Callable[[LogGap], None]) -> None:
        failures = 0
        while not self.stop.is_set():
            try:
                loop.poll_once(POLL_S)
                if failures:
                    log.info("the log answers again")
                    self.state, failures = "ready", 0
            except LogGap as gap:
                if not self._accept_gap:
                    raise
                log.warning("%s; continuing past the gap (--accept-gap)", gap)
                skip_gap(gap)
            except LogUnavailable as error:
                loop.rewind()
                failures = self._back_off(error, failures)
        try:
            loop.commit()
        except LogUnavailable as error:
            log.warning("the last requests may be answered again by the next ranker: %s", error)

    def _join(self) -> None:
        self.stop.set()
        if self._builder:
            self._builder.close()  # a load that waits for it fails at once
        for thread in self._threads:
            thread.join(10.0)

    def _close(self, source: Log) -> None:
        try:
            source.close()
        except LogError as error:
            log.warning("the last replies may be lost: %s", error)

    def _retried(self, connect: Callable[[], T]) -> T | None:
        """The result of `connect` once the log is available; None after `stop`."""
        failures = 0
        while not self.stop.is_set():
            try:
                return connect()
            except LogUnavailable as error:
                failures = self._back_off(error, failures)
        return None

    def _back_off(self, error: LogUnavailable, failures: int) -> int:
        if not failures:
            log.warning("%s; retrying", error)
        self.state = str(error)
        self.stop.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
        return failures + 1

    def _start(self, name: str, work: Callable[[threading.Event], None]) -> None:
        """Start a thread whose failure ends the service: half a ranker is worse than a restarted one."""

        def watched() -> None:
            try:
                work(self.stop)
            except Exception as error:
                log.exception("thread %s has ended", name)
                self._failures.append(error)
                self.stop.set()

        thread = threading.Thread(target=watched, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)


def run_ranker(settings: Settings, model: str, *, accept_gap: bool = False) -> None:
    """Rank with `model` until SIGINT or SIGTERM. Raises SettingsError, or LogError when a retry won't help."""
    settings.need_kafka()
    threadpool_limits(1)  # BLAS: several threads score at once, each a batch of its own
    sys.setswitchinterval(SWITCH_S)
    store, client = RedisStore(settings, model), connect(settings)

    def read(users: Sequence[str]) -> dict[str, UserProfile]:
        return read_profiles(client, users, settings.topic_prefix)

    service = RankerService(
        store,
        read,
        model,
        worker=settings.worker,
        threads=settings.ranker_threads,
        accept_gap=accept_gap,
        files=VersionFiles(settings.local / "ranker" / settings.worker / f"{settings.topic_prefix}{model}"),
        builder=BuilderClient(lambda: start_builder(settings, model)),
    )

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop.set())
    health = Health(
        settings.host, settings.ranker_port, service.ready, service.live, written_to=run_file(settings, "ranker")
    )
    try:
        service.run(lambda: KafkaLog(settings))
    finally:
        health.close()
        store.close()
        client.close()
