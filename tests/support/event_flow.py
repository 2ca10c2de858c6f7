"""Pages and installs in real time, some of them bad, late, repeated or taken back; and joiners to be hurt meanwhile."""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove

from producers.batching_producer import BatchingProducer
from producers.clock import Clock
from stream.events.codec import encode, encode_record
from stream.events.topics import EVENTS, EXAMPLES
from stream.events.types import Impression, Install, Tick
from stream.features.page_features import Catalogue, Layout, build_page
from stream.joiner.commit_metadata import decode_commit
from stream.log.kafka_admin import apply_topics, plan_topics
from stream.log.kafka_client import client_options
from stream.log.kafka_groups import group_commits
from stream.log.kafka_log import KafkaLog
from stream.log.protocol import partition_of
from stream.runtime.errors import LogUnavailable
from stream.runtime.settings import DEDUP_IDS, Settings
from stream.spec.spec import Spec
from stream.spec.spec_file import load_spec
from tests.support.forked_services import Nest, alive
from tests.support.waiting import wait_until
from tests.support.whole_system import ended
from thalweg.audit.audit import audit, joiner_progress
from thalweg.audit.committed_rules import GROUP
from thalweg.audit.findings import AuditReport
from thalweg.audit.rules import audit_rules
from thalweg.stack.stack import Stack
from thalweg.stack.status import Service

SOAK: Final = bool(os.environ.get("SOAK"))
SEEDS: Final = [int(seed) for seed in os.environ.get("SEED", "11,12,13" if SOAK else "11").split(",")]
GROUPS_A_S: Final = 200.0
SPEC: Final = """
name = "faults"
parts = ["wide"]
[user]
id = "category"
[item]
id = "category"
[wide]
features = ["item.id"]
[label]
policy = "{policy}"
window = "{window}"
lateness = "{lateness}"
[publish]
gate = {{ holdout = 0.0 }}
"""
PARTITIONS: Final = 6  # Faust gives a worker up to ceil(partitions / workers): by 1, 2 and 3 they are shared evenly
POISON: Final = 0.01  # of all records
RECORD_EVENTS: Final = 256


class Joiners:
    """Workers of one joiner group, on topics of their own; the flow that keeps them busy; the audit at its end.

    `dedup_ids`: how many example ids their learner remembers.
    """

    def __init__(
        self, nest: Nest, stack: Stack, prefix: str, home: Path,
        *, policy: str = "eager", lateness: str = "50ms", window: str = "400ms", partitions: int = PARTITIONS,
        dedup_ids: int = DEDUP_IDS,
    ) -> None:  # fmt: skip
        self.home = home
        self.spec_file = home / "spec.toml"
        self.spec_file.write_text(SPEC.format(policy=policy, lateness=lateness, window=window))
        self.spec = load_spec(self.spec_file)
        self.settings = Settings(
            kafka=stack.kafka, redis=stack.redis, topic_prefix=prefix, local=home, partitions=partitions,
            dedup_ids=dedup_ids,
        )  # fmt: skip
        self.features = features(self.spec)
        self.pids: dict[str, int] = {}
        self._nest = nest
        apply_topics(self.settings, plan_topics(self.settings))
        self.log = KafkaLog(self.settings, linger_ms=2)

    def start(self, worker: str) -> None:
        """`thalweg run joiner` under this worker's name."""
        self.pids[worker] = self._run("joiner", f"joiner-{worker}", worker=worker)

    def start_learner(self, **settings: object) -> None:
        """`thalweg run learner`, with settings of its own."""
        self.pids["learner"] = self._run("learner", "learner", **settings)

    def _run(self, service: str, name: str, **settings: object) -> int:
        """A service's process, with settings of its own; returns its pid."""
        shared = {one: getattr(self.settings, one) for one in ("kafka", "redis", "topic_prefix", "local", "dedup_ids")}
        arguments = ["run", service, "--spec", str(self.spec_file)]
        return self._nest.start(arguments, shared | settings, self.home / f"{name}.log")

    def kill(self, worker: str, number: int = signal.SIGKILL) -> None:
        """kill -9, or kinder; returns when the process is gone."""
        ended(self.pids.pop(worker), number, f"joiner {worker}")

    def remove(self, worker: str) -> None:
        """kill -9 for good, without the wait for the end of its session: it leaves the group by the admin."""
        self.kill(worker)
        group = self.settings.topic("joiner")
        with KafkaAdminClient(**client_options(self.settings)) as admin:
            admin.remove_group_members(group, [MemberToRemove(group_instance_id=f"{group}-{worker}")])

    def end(self) -> None:
        """All of them."""
        for worker in list(self.pids):
            self.kill(worker)
        self.log.close()

    def at_work(self, worker: str) -> int:
        """How many partitions it works on. Fails when its process has ended."""
        pid = self.pids[worker]
        assert alive(pid), (self.home / f"joiner-{worker}.log").read_text()[-3000:]
        service = Service.read(self.settings.local / "run" / f"joiner-{worker}.json")
        if service is None or service.pid != pid:
            return 0
        status, says = service.get("/readyz")
        return int(says.split()[0]) if status == 200 and says.split()[0].isdigit() else 0

    def learned(self) -> tuple[int, int]:
        """How many examples the learner has learned, and how many duplicates it has dropped; (0, 0): no answer."""
        service = Service.read(self.settings.local / "run" / "learner-0.json")
        found = service.metrics() if service else {}
        return int(found.get("thalweg_learner_examples_total", 0)), int(
            found.get("thalweg_learner_duplicates_total", 0)
        )

    def show(self, pages: int) -> None:
        """Send so many pages of four items at once, each with a user of its own and all of them installed."""
        now_ms = int(time.time() * 1000)
        waiting: dict[int, list[Impression | Install]] = {p: [] for p in range(self.settings.partitions)}
        for k in range(pages):
            page = Impression(f"s{k}", now_ms, f"s{k}", list("abcd"), features=self.features)
            installs = [Install(page.user, item, now_ms + 1, f"s{k}-{item}") for item in page.items]
            waiting[partition_of(page.user, self.settings.partitions)] += [page, *installs]
        for partition, events in waiting.items():
            for at in range(0, len(events), RECORD_EVENTS):
                self.log.send(EVENTS.name, partition, encode_record(events[at : at + RECORD_EVENTS]))
        self.log.flush()

    def emitted(self) -> int:
        """How many records of examples there are; −1 while no broker answers."""
        try:
            return sum(self.log.ends(EXAMPLES.name).values())
        except LogUnavailable:
            return -1

    def catch_up(self) -> None:
        """Wait until all that came of the events that there are now is out, by the commits."""
        ends = self.log.ends(EVENTS.name)

        def confirmed() -> bool:
            commits = group_commits(self.settings, GROUP, EVENTS.name)
            return all(p in commits and decode_commit(*commits[p]).progress.confirmed >= end for p, end in ends.items())

        wait_until(confirmed, f"everything to be emitted; see {self.home}", 60.0, every_s=0.2)

    def finish(self, flow: "Flow") -> AuditReport:
        """End the flow, let event time go on until every page is finished, and audit."""
        flow.stop()
        last_ms = int(time.time() * 1000) + 500

        def finished() -> bool:
            for p in range(self.settings.partitions):  # event time can't run ahead of the clock
                self.log.send(EVENTS.name, p, encode_record([Tick(int(time.time() * 1000))]))
            assert all(alive(pid) for pid in self.pids.values()), f"a joiner has ended by itself; see {self.home}"
            commits = joiner_progress(group_commits(self.settings, GROUP, EVENTS.name))
            return len(commits) == self.settings.partitions and all(
                at.finished_ms >= last_ms for at in commits.values()
            )

        wait_until(finished, f"all pages to be finished; see {self.home}", 60.0, every_s=0.2)
        return self.audit()

    def audit(self) -> AuditReport:
        """Of all that there is."""
        progress = joiner_progress(group_commits(self.settings, GROUP, EVENTS.name))
        return audit(self.log, audit_rules(self.spec), progress, memory=self.settings.dedup_ids)


def features(spec: Spec) -> bytes:
    """Those of a page with four unknown items."""
    layout = Layout(spec)
    return build_page(layout, layout.user("u", {}, [], {}), Catalogue(layout), np.zeros(4, np.int64)).tobytes()


class Flow:
    """Sends at an even pace in a thread of its own, from a seed, until it is stopped."""

    def __init__(self, settings: Settings, seed: int, groups_a_s: float, features: bytes) -> None:
        self.sent = 0
        self.pages = 0
        self.poison = 0
        self.is_disconnected = False  # as a producer without a broker: events happen, and wait
        self._features = features
        self._partitions = settings.partitions
        self._random = random.Random(seed)
        self._rate = groups_a_s
        self._waiting: list[Impression | Install] = []
        self._later: list[Install] = []
        self._ending = threading.Event()
        self._log = KafkaLog(settings, linger_ms=2)
        self._producer = BatchingProducer(self._log, Clock(), 0.02, print, lambda: False)
        self._thread = threading.Thread(target=self._run, name="flow", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it still sends."""
        return self._thread.is_alive() and not self._ending.is_set()

    def stop(self) -> None:
        """Send what is left, and wait until the log has all of it."""
        self._ending.set()
        self._thread.join(90.0)
        assert not self._thread.is_alive(), "the flow could not be ended"
        self._log.close()

    def _run(self) -> None:
        started = time.monotonic()
        while not self._ending.is_set():
            self._waiting += self._group()
            if self._random.random() < POISON and not self.is_disconnected:
                self.poison += 1
                self._producer.send(
                    EVENTS.name, self._random.randrange(self._partitions), b"\xc1 poison %d" % self.poison
                )
            if not self.is_disconnected:
                self._gather()
                self._producer.send_due()
            self.sent += 1
            time.sleep(max(0.0, self.sent / self._rate - (time.monotonic() - started)))
            if self.sent / self._rate < time.monotonic() - started - 1.0:  # it was blocked: don't catch up in a burst
                started = time.monotonic() - self.sent / self._rate
                self._waiting += self._later  # these happened before what happens from now on
                self._later.clear()
        self._waiting += self._later
        self._gather()
        self._producer.flush()

    def _gather(self) -> None:
        for event in self._waiting:
            self._producer.append(partition_of(event.user, self._partitions), encode(event))
        self._waiting.clear()

    def _group(self) -> Sequence[Impression | Install]:
        """A page, now and then with its installs before it, and what is left of older ones."""
        rng = self._random
        now = int(time.time() * 1000)
        user = f"u{rng.randrange(300)}"
        shown, features = rng.sample("abcdefgh", 4), self._features
        page = Impression(f"r{self.pages}", now - rng.randrange(60), user, shown, features=features)
        self.pages += 1
        group: list[Impression | Install] = [page]
        if rng.random() < 0.4:
            named = rng.choice(["", page.request_id])
            install = Install(user, rng.choice(page.items), page.time_ms + rng.randrange(350), f"i{self.pages}", named)
            if rng.random() < 0.2:
                group.insert(0, install)
            else:
                self._later.append(install)
            if rng.random() < 0.2:
                self._later.append(Install(user, install.item, install.time_ms + 5, install.install_id, retracted=True))
        if rng.random() < 0.05:
            group.append(page)
        while self._later and rng.random() < 0.4:
            group.append(self._later.pop(rng.randrange(len(self._later))))
        return group


@contextmanager
def flowing(joiners: Joiners, seed: int, groups_a_s: float = GROUPS_A_S) -> Iterator[Flow]:
    """A flow that goes on meanwhile, and ends whatever happens."""
    flow = Flow(joiners.settings, seed, groups_a_s, joiners.features)
    try:
        yield flow
    finally:
        if flow.running:
            flow.stop()


def grown(joiners: Joiners, before: int, what: str) -> int:
    """Wait until there are more examples than before: somebody is at work."""
    wait_until(lambda: joiners.emitted() > before, what, 60.0)
    return joiners.emitted()


def shared_by(joiners: Joiners, *workers: str) -> None:
    """Wait until these have all partitions, each some, and are at work."""

    def all_shared() -> bool:
        shares = [joiners.at_work(worker) for worker in workers]
        return min(shares) > 0 and sum(shares) == joiners.settings.partitions

    wait_until(all_shared, f"all partitions to be shared by {workers}", 60.0)
    grown(joiners, joiners.emitted(), f"work of {workers}")
