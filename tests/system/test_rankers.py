"""Two rankers share the requests: one that is killed, or stopped, leaves none unanswered."""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.forked_services import Nest
from tests.support.ranker_world import ASK_S, Load, World, toy, write_items
from tests.support.waiting import wait_until
from thalweg.client import Client, ClientError, Overloaded
from thalweg.stack.stack import Stack

pytestmark = pytest.mark.timeout(400)  # real processes, on a machine that may be busy

AGAIN_S = 0.1


class HttpLoad:
    """One client of several rankers, which asks one request after the other, and notes how long each took.

    One that is shed is asked again, as its error says: on a busy machine the first ones may wait too long.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self.waited_s: list[float] = []
        self.errors: list[ClientError] = []
        self._stop = threading.Event()
        self._client = Client(addresses, deadline_ms=10_000)
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stop.wait(ASK_S):
            begun_s = time.monotonic()
            try:
                self._rank(f"u{len(self.waited_s) % 7}")
            except ClientError as error:
                self.errors.append(error)
            self.waited_s.append(time.monotonic() - begun_s)

    def _rank(self, user: str) -> None:
        while True:
            try:
                self._client.rank(user, k=5)
                return
            except Overloaded:
                if self._stop.wait(AGAIN_S):
                    return

    def finish(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join()
        self._client.close()


@pytest.fixture
def world(nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path) -> Iterator[World]:
    """Four partitions, items and a version."""
    made = World(nest, stack, topic_prefix, tmp_path, partitions=4)
    write_items(made.log)
    toy().publish(made.store)
    yield made
    made.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_of_two_rankers_ends_under_load(world: World, number: signal.Signals) -> None:
    """Whoever is left answers the other's partitions too, and the client's calls: each request has a ranked reply."""
    rankers = {worker: world.ranker(worker) for worker in "ab"}
    try:
        for worker in rankers:
            wait_until(lambda: world.health("readyz", worker).startswith("ready (version"))  # noqa: B023  # at once
        load, over_http = Load(world.log), HttpLoad([world.run_file(worker)["http"] for worker in rankers])
        wait_until(lambda: all(_replies(world, worker) for worker in rankers), "both rankers to answer")
        load.wait_for(100)
        before = len(load.waited_s)
        rankers["a"].send_signal(number)
        rankers["a"].wait(60)
        load.wait_for(100)
        wait_until(lambda: len(load.waited_s) >= load.caller.asked - 5, "the survivor to catch up")
        load.wait_for(100)
        load.finish()
        over_http.finish()
        longest_s = max([*load.waited_s.values()][before:]), max(over_http.waited_s)
        print(f"{number.name}: the longest wait was {longest_s[0]:.2f} s over Kafka, {longest_s[1]:.2f} s over HTTP")
    finally:
        for process in rankers.values():
            process.kill()
            process.wait()
    assert not over_http.errors
    assert {reply.error for reply in load.caller.replies} == {""}


def _replies(world: World, worker: str) -> float:
    lines = world.health("metrics", worker).splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("thalweg_ranker_replies_total "))
