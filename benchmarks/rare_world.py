"""A learner and its gate in the store's time, without a joiner: pages are learned when their window closes.

The world is that of `delays`, its traffic, waves and tastes. A step is one interval of publishing: pages are shown with
the statistics of that moment, those whose window closes are learned, and the version is judged as the publisher does.
"""

import gc
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import numpy as np
from msgspec import structs

from benchmarks import delays
from learner.publishing.gate import PublishGate
from learner.training.model import Model
from producers.store.parameters import START_MS
from producers.store.scenario import load_scenario
from stream.events.codec import example_id
from stream.events.types import INSTALLED, WINDOW_CLOSED, Examples, Impression, Item
from stream.features.page_features import Catalogue, build_page
from stream.snapshots.verdict import Verdict
from stream.spec.spec import Spec
from stream.tables.dtypes import F64, I64, U64, Bools

EVERY_S: Final = 0.25  # from version to version
DEEP_EVERY: Final = 4  # versions
RECORD: Final = 8  # pages
HOLDOUT: Final = 0.05
T = TypeVar("T")
Relabel = Callable[[I64, Bools], Bools]  # users i64[P] of pages, labels bool[P, ITEMS]


def spec_of(base_rate: float) -> Spec:
    """That of `delays`, where labels wait for their window; HOLDOUT of the pages are held out."""
    spec = delays.spec_of("wait")
    gate = structs.replace(spec.publish.gate, holdout=HOLDOUT)
    publish, label = structs.replace(spec.publish, gate=gate), structs.replace(spec.label, base_rate=base_rate)
    return structs.replace(spec, label=label, publish=publish)


class Course:
    """One model in one world. `relabel`, `catalogue`: for faults to replace."""

    def __init__(self, base_rate: float, scenario: str, until_s: float, seed: int) -> None:
        self.base_rate, self.until_s, self.now_s = base_rate, until_s, 0.0
        names = [] if scenario == "ordinary" else [scenario]
        self.of = delays.traffic(load_scenario(names), base_rate, delays.PAGES_A_S, until_s, seed)
        self.model = Model(spec_of(base_rate), seed)
        self.gate = PublishGate(self.model)
        self.catalogue = self.catalogue_of(categories=True)
        self.relabel: Relabel = lambda users, labels: labels
        self.random = np.random.default_rng((seed, 3))
        self.versions = 0
        self._users = [
            self.model.layout.user(f"u{u}", {"segment": f"s{u % delays.SEGMENTS}"}, [], {}) for u in range(delays.USERS)
        ]
        self._names = [f"i{i}" for i in range(delays.CATALOGUE)]
        self._shown, self._offset = 0, 0
        self._waiting: deque[tuple[int, bytes]] = deque()

    def catalogue_of(self, *, categories: bool) -> Catalogue:
        """The items, with or without their categories."""
        found = Catalogue(self.model.layout)
        for i, category in enumerate(self.of.categories.tolist()):
            found.put(Item(f"i{i}", {"category": f"c{category}"} if categories else {}))
        return found

    @property
    def goes_on(self) -> bool:
        """Whether there are pages left."""
        return self.now_s < self.until_s

    def advance(self) -> None:
        """Show and learn until the next version."""
        self.now_s += EVERY_S
        shown = int(np.searchsorted(self.of.times_ms, 1_000 * self.now_s))
        self._waiting.extend((p, self.page(p).tobytes()) for p in range(self._shown, shown))
        self._shown = shown
        closed_ms, closed = 1_000 * (self.now_s - delays.WINDOW_S), list[tuple[int, bytes]]()
        while self._waiting and self.of.times_ms[self._waiting[0][0]] < closed_ms:
            closed.append(self._waiting.popleft())
        if not closed:
            return
        which = np.array([p for p, _ in closed])
        labels = self.relabel(self.of.users[which], self.of.installed[which])
        events = [self._examples(p, words, row) for (p, words), row in zip(closed, labels, strict=True)]
        packs = [events[first : first + RECORD] for first in range(0, len(events), RECORD)]
        for chunk in self.model.record_encoder.of_events(packs, range(self._offset, self._offset + len(packs)), -1):
            for first, last in self.model.steps(chunk):
                self.model.learn_records(chunk, first, last)
        self._offset += len(packs)

    def judge(self, *, deep: bool | None = None) -> Verdict:
        """The next version's verdict; `deep`: whether it has a deep part of its own."""
        self.versions += 1
        self.gate.confirm()
        return self.gate.judge(deep=self.versions % DEEP_EVERY == 0 if deep is None else deep)

    def page(self, p: int) -> U64:
        """The features of a page if it's shown now."""
        rows = self.catalogue.rows([self._names[i] for i in self.of.items[p]])
        words = build_page(self.model.layout, self._users[self.of.users[p]], self.catalogue, rows)
        self.model.statistics.fill(words, START_MS + int(1_000 * self.now_s))
        return words

    def predictions(self, pages: I64) -> F64:
        """P(Y=1) of these pages' items, float64 [P, ITEMS], if they are shown now."""
        encoded = self.model.encode_pages([self.page(int(p)) for p in pages])
        return np.array([self.model.predict_encoded(*one) for one in encoded], np.float64)

    def _examples(self, p: int, features: bytes, labels: Bools) -> Examples:
        name, time_ms = f"p{p}", START_MS + int(self.of.times_ms[p])
        page = Impression(name, time_ms, f"u{self.of.users[p]}", [self._names[i] for i in self.of.items[p]],
                          features=features)  # fmt: skip
        reasons = [INSTALLED if label else WINDOW_CLOSED for label in labels.tolist()]
        ids = [example_id(name, i, reason, "") for i, reason in enumerate(reasons)]
        places, weights = list(range(len(ids))), [1.0] * len(ids)
        return Examples(
            page, ids, places, [int(one) for one in labels.tolist()], weights, reasons, [time_ms] * len(ids)
        )


def in_copy(work: Callable[[], T], of: type[T]) -> T:
    """What `work` returns in a forked copy of this process, which ends with it: nothing here changes.

    Raises RuntimeError when it fails.
    """
    readable, writable = os.pipe()
    sys.stdout.flush()
    gc.freeze()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.write(writable, msgspec.json.encode(work()))  # less than a pipe has room for
            code = 0
        except Exception:  # noqa: BLE001  # whatever it is, the copy must not go on as its parent does
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writable)
    with open(readable, "rb") as pipe:
        found = pipe.read()
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("a trial failed in its copy of the process; its traceback is above")
    return msgspec.json.decode(found, type=of)
