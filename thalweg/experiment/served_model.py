"""A model that learns and is served, in one thread: learner, publisher and ranker without their processes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from learner.publishing.gate import PublishGate, version_metrics
from learner.publishing.version_builder import VersionBuilder
from learner.retraining.schedule import RetrainSchedule
from learner.training.model import Model
from ranker.ranking.entity_cache import EntityCache
from ranker.ranking.rank import Ranker
from ranker.ranking.score import Scorer
from ranker.ranking.version_watcher import VersionWatcher
from ranker.serving import served_model as serving
from ranker.serving.admission import AdmissionQueue
from ranker.serving.answering import Answerer
from ranker.serving.profile_reader import ProfileReader
from ranker.serving.reply_writer import ReplyWriter
from ranker.serving.request_loop import RequestLoop
from stream.events.topics import EXAMPLES, REPLIES, REQUESTS
from stream.events.types import Value
from stream.features.serve_as import as_served
from stream.history.profiles import UserProfile
from stream.log.memory_log import MemoryLog
from stream.snapshots.memory_store import MemoryStore
from stream.spec.spec import Spec
from stream.tables.dtypes import F32, U64

KEEP_VERSIONS: Final = 2
RETAIN_EVERY: Final = 64  # versions
PATIENCE_S: Final = 600.0  # results don't depend on the machine's speed


class ServedModel:
    """Learns `examples` of a shared log, publishes on demand, and answers the requests of a log of its own.

    `attributes` are users'. It holds nothing out: all arms learn the same examples, and nothing here rolls back.
    """

    def __init__(
        self,
        spec: Spec,
        seed: int,
        examples: MemoryLog,
        cache: EntityCache,
        attributes: Mapping[str, Mapping[str, Value]],
        now_ms: Callable[[], int],
    ):
        self._learning = RetrainSchedule(Model(spec.without_holdout(), seed))
        self.log = MemoryLog({REQUESTS.name: 1, REPLIES.name: 1}, now_ms)
        self.rejected = 0  # versions, by the gate
        self._swept = -1
        self._examples, self._reader = examples, examples.reader(EXAMPLES.name, {0: 0})
        self._now_ms = now_ms
        self._store = MemoryStore(spec.name, lambda: 1_000 * now_ms())
        self._token = self._store.take_token()
        self._builder, self._version, self._learned = VersionBuilder(self.model), 0, 0
        self._gate = PublishGate(self.model)
        self._watcher = VersionWatcher(self._store, spec.name, cache, now_ms)
        self._scorer = Scorer(1)
        self._ranker = Ranker(cache, self._watcher, self._scorer, now_ms)
        served = serving.ServedModel(spec.name, self._watcher, self._ranker)

        def read(users: Sequence[str]) -> dict[str, UserProfile]:
            return {user: UserProfile(None, attributes.get(user)) for user in users}  # requests bring their histories

        self._profiles = ProfileReader(read, PATIENCE_S)
        self._requests = RequestLoop(
            self.log.group_reader(REQUESTS.name, "ranker", "0"), ReplyWriter(self.log.sender("1"), {REPLIES.name: 1}),
            Answerer({spec.name: served}, self._profiles, now_ms), AdmissionQueue(math.inf), now_ms,
            model=spec.name,
        )  # fmt: skip

    @property
    def model(self) -> Model:
        """The live one."""
        return self._learning.model

    @property
    def offset(self) -> int:
        """The next one in `examples`."""
        return self._reader.positions()[0]

    def learn(self) -> None:
        """Learn all records that wait; after a promotion the next version is a full base."""
        model = self.model
        while records := self._reader.poll(0.0, 1_000):
            for chunk in model.record_encoder.records(records):
                for first, last in self.model.steps(chunk):
                    self._learning.learn(chunk, first, last)
        if self.model is not model:
            self._builder = VersionBuilder(self.model)

    def predict(self, pages: Sequence[U64]) -> list[F32]:
        """P(Y=1) of each page's items by what was learned so far, float32 [n] each."""
        return [self.model.predict_encoded(*encoded) for encoded in self.model.encode_pages(pages)]

    def score(self, words: U64) -> F32:
        """P(Y=1) of a page's items by the live version, float32 [n]; a half each while there is none."""
        served = self._watcher.served
        if served is None:
            return np.full(int(words[1]), 0.5, np.float32)
        page = as_served(self.model.layout, words.copy())  # kernels are compiled for writable arrays
        return self._scorer.score(served.version, page)[0]

    def retrieved(self, request_id: str, history: Sequence[str]) -> list[str]:
        """As `Ranker.retrieved`, without what the user installed. All items are swept once a version, and those that
        came later are new.
        """
        if self._swept != self._version:
            self._watcher.items_loaded()
            self._swept = self._version
        return self._ranker.retrieved(request_id, history, self._watcher.served, history).names

    def publish(self) -> None:
        """Publish what was learned since the last version and serve it, unless the gate rejects it."""
        model = self.model
        if model.learned == self._learned:
            return
        self._learned = model.learned
        verdict = self._gate.judge(deep=True)
        if not verdict.passed:
            self.rejected += 1
            return
        parent, now_ms, metrics = self._version, self._now_ms(), version_metrics(model, verdict)
        self._version += 1
        built = self._builder.build(self._version, parent, self._token, self.offset, now_ms, metrics, deep=True)
        self._store.put_blobs(built.blobs)
        self._store.publish(built.manifest)
        if self._version % RETAIN_EVERY == 0:
            self._store.retain(KEEP_VERSIONS)
        is_served = self._watcher.step()
        assert is_served, f"version {self._version} isn't served: {self._watcher.rejection}"

    def answer(self) -> None:
        """Answer all requests that wait; earlier replies were read."""
        self.log.truncate(REPLIES.name, 0, self.log.ends(REPLIES.name)[0])
        while self._requests.poll_once(0.0) or not self._requests.is_idle:
            pass
        self.log.truncate(REQUESTS.name, 0, self.log.ends(REQUESTS.name)[0])

    def close(self) -> None:
        """End its threads."""
        self._profiles.close()
        self._scorer.close()
