"""One ranker: answers `rank.requests` by the live versions of its models and swaps in newer ones."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from ranker.ranking.entity_cache import EntityCache, ItemConsumer
from ranker.ranking.jit_warmup import compile_kernels
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.serving.admission import AdmissionQueue
from ranker.serving.answering import Answerer
from ranker.serving.erased_users import ErasedUsers
from ranker.serving.name_writer import NameWriter
from ranker.serving.profile_reader import ProfileReader, ReadProfiles
from ranker.serving.reply_writer import ReplyWriter, reply_partitions
from ranker.serving.request_loop import RequestLoop
from ranker.serving.served_model import ModelSource, ServedModel
from stream.events.topics import REQUESTS
from stream.events.types import Item
from stream.features.new_values import NewValues
from stream.log.protocol import Acks, Log
from stream.runtime.clock import now_ms
from stream.runtime.errors import LogError, LogUnavailable
from stream.runtime.heartbeat import Heartbeat, all_live

POLL_S: Final = 0.1
FIRST_MODEL_S: Final = 10.0  # how long to wait for the first model before answering without one
BACKOFF_S: Final = (0.5, 1.0, 2.0, 5.0)
HUNG_S: Final = 60.0  # after which a request loop that hasn't polled is hung; a broker that is silent takes up to 20 s

log = logging.getLogger(__name__)

T = TypeVar("T")


def group_of(model: str) -> str:
    """The consumer group of the rankers of a model: each request is read by all groups, and answered by one.

    >>> group_of("store")
    'ranker-store'
    """
    return f"ranker-{model}"


@dataclass(frozen=True)
class KafkaOptions:
    """How requests of the log are answered. `worker`: the static name in the group.

    `answers_unnamed`: the first model answers requests that name none. `reply_topics`: those that `reply_to` may name.
    """

    worker: str = "0"
    answers_unnamed: bool = True
    reply_topics: Sequence[str] = ()
    acks: Acks = "1"


class RankerService:
    """All threads of one ranker, which serves the models of `sources`, by name; the first is the default.

    Log, stores and `read` (of profiles; `quick`: see ProfileReader) are passed in; `run` blocks until `stop`, and
    closes the models' builders.
    """

    def __init__(
        self,
        sources: Mapping[str, ModelSource],
        read: ReadProfiles,
        *,
        threads: int,
        queue_ms: float = 250.0,
        options: KafkaOptions = KafkaOptions(),
        quick: ReadProfiles | None = None,
    ) -> None:
        assert sources, "a ranker serves at least one model"
        self.stop = threading.Event()
        self.state = "starting"  # "ready" while requests are answered
        self.log: Log | None = None  # once it is connected
        self.admission = AdmissionQueue(queue_ms)
        self._options, self._scorer = options, Scorer(threads)
        self._caches = {name: EntityCache() for name in sources}
        self.models = {name: self._model(name, source) for name, source in sources.items()}
        self.profiles = ProfileReader(read, quick=quick)
        self.values = NewValues(now_ms)
        self._is_warm = False
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._unavailable: dict[str, str] = {}  # why a model's requests aren't answered
        self._hearts: dict[str, Heartbeat] = {}  # of each model's request loop

    def _model(self, name: str, source: ModelSource) -> ServedModel:
        cache = self._caches[name]
        watcher = VersionWatcher(source.store, name, cache, now_ms, source.files, source.builder)
        return ServedModel(name, watcher, Ranker(cache, watcher, self._scorer, now_ms), source.builder)

    def ready(self) -> tuple[bool, str]:
        """For `/readyz`: whether requests are answered, and the state."""
        state = next(iter(self._unavailable.values()), self.state)
        versions = [_version_of(model, named=len(self.models) > 1) for model in self.models.values()]
        return state == "ready", f"{state} ({', '.join(versions)})"

    def ranks(self) -> tuple[bool, str]:
        """Whether it can rank, be the log available or not; and the state."""
        return self._is_warm and not self.stop.is_set(), self.ready()[1]

    def item(self, name: str) -> Item | None:
        """What is known of an item, by all models alike. Any thread may ask."""
        return next(iter(self._caches.values())).items.get(name)

    def forget(self, user: str) -> None:
        """Forget an erased user: the profile that was read lately, and the name, which may wait to be written."""
        self.profiles.erase(user)
        self.values.forget(user)

    def live(self) -> tuple[bool, str]:
        """For `/livez`: whether all threads run, and no request loop hangs."""
        if self._failures:
            return False, f"a thread has ended: {self._failures[0]!r}"
        return all_live(self._hearts.copy().values())

    def run(self, connect: Callable[[], Log], stopping: Callable[[], None] = lambda: None) -> None:
        """Answer until `stop` is set. Raises LogError when a retry won't help.

        `connect` opens the log; it's called again after LogUnavailable. `stopping` ends what else uses the models.
        """
        try:
            for model in self.models.values():
                if model.builder:
                    with suppress(OSError):  # the watcher retries
                        model.builder.start()  # while the ranker warms up
                model.watcher.restore()
                self._start("watch", model.watcher.run)
                self._start("save", model.watcher.run_saver)
            self.state = "waiting for the log"
            self.log = source = self._retried(connect)
            if source is not None:
                self._serve(source, connect)
        finally:
            self._is_warm = False
            ending = threading.Thread(target=stopping, name="stopping")
            ending.start()
            self._join()
            ending.join()
            if self.log is not None:
                self._close(self.log)
            self._scorer.close()
            self.profiles.close()
        if self._failures:
            raise self._failures[0]

    def _serve(self, source: Log, connect: Callable[[], Log]) -> None:
        partitions = self._retried(lambda: reply_partitions(source, self._options.reply_topics))
        if partitions is None:
            return
        consumer = ItemConsumer(source, list(self._caches.values()), connect)
        self._start("consume", consumer.run)
        self._start("names", NameWriter(self.values, connect).run)
        self._start("erased", ErasedUsers(source, self.forget, self.profiles.drop_all).run)
        self.state = "warming up"
        self.profiles.begin(["warm-up"]).result()  # opens the connection before the first request
        compile_kernels(self._scorer)
        self.state = "reading items"
        gc.collect()
        while not consumer.ready.wait(0.1):
            gc.freeze()  # items stay: full collections, of which a million of them would cause some, skip them
            if self.stop.is_set():
                return
        self._wait_for_models()
        gc.collect()
        gc.freeze()  # long-lived: full collections skip it
        self._is_warm = True
        self.state = "joining the group"
        first, *others = self.models
        for name in others:
            self._start(f"answer-{name}", partial(self._answer, source, partitions, name))
        self._answer(source, partitions, first, self.stop)

    def _wait_for_models(self) -> None:
        until_s = time.monotonic() + FIRST_MODEL_S
        for model in self.models.values():
            model.watcher.items_loaded()
            if model.watcher.served is None:
                self.state = "waiting for a model"
                while not model.watcher.checked.wait(0.1) and time.monotonic() < until_s and not self.stop.is_set():
                    pass

    def _answer(self, source: Log, partitions: Mapping[str, int], name: str, stop: threading.Event) -> None:
        """Answer one model's requests until `stop` is set; in a thread of its own."""
        options, is_first = self._options, name == next(iter(self.models))
        reader = self._retried(lambda: source.group_reader(REQUESTS.name, group_of(name), options.worker), name)
        sender = self._retried(lambda: source.sender(options.acks), name)
        with ExitStack() as open_:
            for one in (sender, reader):  # the reader leaves the group first
                if one is not None:
                    open_.enter_context(closing(one))
            if reader is None or sender is None:
                return
            answerer = Answerer({name: self.models[name]}, self.profiles, now_ms, self.values)
            loop = RequestLoop(
                reader, ReplyWriter(sender, partitions), answerer, self.admission, now_ms, model=name,
                answers_unnamed=is_first and options.answers_unnamed,
            )  # fmt: skip
            if is_first:
                self.state = "ready"
            self._poll(loop, name, stop)

    def _poll(self, loop: RequestLoop, name: str, stop: threading.Event) -> None:
        failures = 0
        heart = self._hearts[name] = Heartbeat(f"the loop of requests for {name}", HUNG_S)
        while not stop.is_set():
            heart.beat()
            try:
                loop.poll_once(POLL_S)
                if failures:
                    log.info("the log answers again")
                    failures = 0
                    self._unavailable.pop(name, None)
            except LogUnavailable as error:
                loop.rewind()
                failures = self._back_off(error, failures, name)
        try:
            loop.finish()
        except LogUnavailable as error:
            log.warning("the last requests may be answered again by the next ranker: %s", error)

    def _join(self) -> None:
        self.stop.set()
        for model in self.models.values():
            if model.builder:
                model.builder.close()  # a load that waits for it fails at once
        for thread in self._threads:
            thread.join(10.0)

    def _close(self, source: Log) -> None:
        try:
            source.close()
        except LogError as error:
            log.warning("the last dead letters may be lost: %s", error)

    def _retried(self, connect: Callable[[], T], name: str = "") -> T | None:
        """The result of `connect` once the log is available; None after `stop`. `name`: of the model that needs it."""
        failures = 0
        while not self.stop.is_set():
            try:
                found = connect()
            except LogUnavailable as error:
                failures = self._back_off(error, failures, name)
            else:
                self._unavailable.pop(name, None)
                return found
        return None

    def _back_off(self, error: LogUnavailable, failures: int, name: str) -> int:
        self._unavailable[name] = str(error)
        if not failures:
            log.warning("%s; retrying", error)
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


def _version_of(model: ServedModel, *, named: bool) -> str:
    served = model.watcher.served
    version = f"version {served.version.number}" if served else "no model yet, ranking by static popularity"
    return f"{model.name}: {version}" if named else version
