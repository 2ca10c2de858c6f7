"""`thalweg run ranker`: answers `rank.requests` with the model that is live, and follows it as it learns."""

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final, TypeVar

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

from ranker.builder.builder_client import Builder, started
from ranker.ranking.entity_cache import Feeder, Shelf
from ranker.ranking.jit_warmup import warm
from ranker.ranking.rank import Ranker
from ranker.ranking.score import SWITCH_S, Scorer
from ranker.ranking.version_watcher import Follower
from ranker.serving.history import HistoryReader, Read
from ranker.serving.request_loop import Desk
from stream.events.topics import ITEMS, REQUESTS, USERS
from stream.history.histories import read_histories
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import START, Log
from stream.runtime.clock import now_ms
from stream.runtime.errors import LogGap, LogUnavailable
from stream.runtime.health import Health, run_file
from stream.runtime.settings import Settings
from stream.snapshots.redis_client import connect
from stream.snapshots.redis_store import RedisStore
from stream.snapshots.store import SnapshotStore
from stream.snapshots.version_files import VersionFiles

GROUP: Final = "ranker"
POLL_S: Final = 0.1
FIRST_MODEL_S: Final = 10.0  # how long the first model may take to be had; then answers come without one
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)

log = logging.getLogger(__name__)

T = TypeVar("T")


class RankerService:
    """All threads of one ranker. Log, store and the read of histories are passed in; `run` blocks until `stop`.

    Versions are built by `builder`, which `run` closes; without one, by a thread of this process.
    """

    def __init__(
        self,
        store: SnapshotStore,
        read: Read,
        model: str,
        *,
        worker: str,
        threads: int,
        accept_gap: bool = False,
        files: VersionFiles | None = None,
        builder: Builder | None = None,
    ) -> None:
        self.stop = threading.Event()
        self.state = "starting"  # "ready" when it answers
        self._worker, self._accept_gap = worker, accept_gap
        self._builder = builder
        self._shelf = Shelf()
        self._scorer = Scorer(threads)
        self._follower = Follower(store, model, self._shelf, now_ms, files, builder)
        self._ranker = Ranker(self._shelf, self._follower, self._scorer, now_ms)
        self._histories = HistoryReader(read)
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    def ready(self) -> tuple[bool, str]:
        """For `/readyz`: whether requests are answered, and what is missing."""
        served = self._follower.served
        version = f"version {served.version.number}" if served else "no model yet: by popularity"
        return self.state == "ready", f"{self.state} ({version})"

    def live(self) -> tuple[bool, str]:
        """For `/livez`: whether all threads are."""
        return not self._failures, "ok" if not self._failures else f"a thread has ended: {self._failures[0]!r}"

    def run(self, connect: Callable[[], Log]) -> None:
        """Answer until `stop` is set. Raises LogError when waiting won't help.

        `connect` makes the log; it may raise LogUnavailable: it's called again.
        """
        try:
            if self._builder:
                with suppress(OSError):  # the follower tries again
                    self._builder.start()  # while the ranker warms up
            self._follower.restore()
            self._start("follow", self._follower.run)
            self._start("keep", self._follower.run_keeper)
            self.state = "waiting for the log"
            source = self._patiently(connect)
            if source is not None:
                try:
                    self._serve(source, connect)
                finally:
                    self._end(source)
        finally:
            self._join()
            self._scorer.close()
            self._histories.close()
        if self._failures:
            raise self._failures[0]

    def _serve(self, source: Log, connect: Callable[[], Log]) -> None:
        feeders = [Feeder(source, topic.name, self._shelf, connect) for topic in (ITEMS, USERS)]
        for feeder in feeders:
            self._start("feed", feeder.run)
        self.state = "warming up"
        self._histories.get(["warm-up"], 1)  # so that the connection is there when the first request comes
        warm(self._scorer)
        self.state = "reading items and users"
        for feeder in feeders:
            while not feeder.ready.wait(0.1):
                if self.stop.is_set():
                    return
        self._follower.items_read()
        if self._follower.served is None:
            self.state = "looking for a model"
            until_s = time.monotonic() + FIRST_MODEL_S
            while not self._follower.looked.wait(0.1) and time.monotonic() < until_s and not self.stop.is_set():
                pass
        gc.collect()
        gc.freeze()  # what was read so far stays: full collections needn't look at it again
        self.state = "joining the group"
        reader = self._patiently(lambda: source.group_reader(REQUESTS.name, GROUP, self._worker))
        if reader is None:
            return
        try:
            desk = Desk(source, reader, self._ranker, self._histories, self._follower.freshness, now_ms)
            self.state = "ready"
            self._answer(desk, lambda gap: reader.seek(gap.partition, START))
        finally:
            reader.close()

    def _answer(self, desk: Desk, skip: Callable[[LogGap], None]) -> None:
        failures = 0
        while not self.stop.is_set():
            try:
                desk.turn(POLL_S)
                if failures:
                    log.info("the log answers again")
                    self.state, failures = "ready", 0
            except LogGap as gap:
                if not self._accept_gap:
                    raise
                log.warning("%s; going on from there", gap)
                skip(gap)
            except LogUnavailable as bad:
                desk.rewind()
                failures = self._back_off(bad, failures)
        try:
            desk.commit()
        except LogUnavailable as bad:
            log.warning("the last requests may be answered again by the next ranker: %s", bad)

    def _join(self) -> None:
        self.stop.set()
        if self._builder:
            self._builder.close()  # whoever waits for it
        for thread in self._threads:
            thread.join(10.0)

    def _end(self, source: Log) -> None:
        self._join()
        try:
            source.close()
        except LogUnavailable as bad:
            log.warning("the last replies may be lost: %s", bad)

    def _patiently(self, make: Callable[[], T]) -> T | None:
        """What `make` makes, once the log answers; None when it's time to stop."""
        failures = 0
        while not self.stop.is_set():
            try:
                return make()
            except LogUnavailable as bad:
                failures = self._back_off(bad, failures)
        return None

    def _back_off(self, bad: LogUnavailable, failures: int) -> int:
        if not failures:
            log.warning("%s; trying again", bad)
        self.state = str(bad)
        self.stop.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
        return failures + 1

    def _start(self, name: str, work: Callable[[threading.Event], None]) -> None:
        """A thread whose failure ends the service: half a ranker is worse than one that is started anew."""

        def watched() -> None:
            try:
                work(self.stop)
            except Exception as bad:
                log.exception("thread %s has ended", name)
                self._failures.append(bad)
                self.stop.set()

        thread = threading.Thread(target=watched, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)


def run_ranker(settings: Settings, model: str, *, accept_gap: bool = False) -> None:
    """Rank with `model` until SIGINT or SIGTERM. Raises SettingsError, or LogError when waiting won't help."""
    settings.need_kafka()
    threadpool_limits(1)  # BLAS: several threads score at once, each its own batch
    sys.setswitchinterval(SWITCH_S)
    store, client = RedisStore(settings, model), connect(settings)

    def read(users: Sequence[str], last: int) -> dict[str, list[str]]:
        return read_histories(client, users, last, settings.topic_prefix)

    service = RankerService(
        store,
        read,
        model,
        worker=settings.worker,
        threads=settings.ranker_threads,
        accept_gap=accept_gap,
        files=VersionFiles(settings.local / "ranker" / settings.worker / f"{settings.topic_prefix}{model}"),
        builder=Builder(lambda: started(settings, model)),
    )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        service.stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    health = Health(
        settings.host, settings.ranker_port, service.ready, service.live, written_to=run_file(settings, "ranker")
    )
    try:
        service.run(lambda: KafkaLog(settings))
    finally:
        health.close()
        store.close()
        client.close()
