"""Learner and ranker together: the same scores, no reply of two versions, and Redis away for a while."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.publishing.version_builder import VersionBuilder, serving_deep_logits, serving_wide_logits
from learner.training.model import Model
from producers.clock import Clock
from producers.replay import ReplayOptions, replay
from producers.store.rankers import LogRankers
from ranker.versions.model import score_features
from ranker.versions.version_loader import VersionLoader
from stream.log.kafka_log import KafkaLog
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.redis_store import RedisStore
from stream.spec.spec_file import parse_spec
from tests.support.forked_services import Nest
from tests.support.learner_world import SPEC, records
from tests.support.stack_faults import stop_server
from tests.support.waiting import wait_until
from tests.support.whole_system import House, world
from thalweg.demo.caller import kafka_caller
from thalweg.demo.open_loop_client import OpenLoopClient, RequestOutcome
from thalweg.demo.rescore import rescore
from thalweg.stack.stack import Stack, up

DOWN_S = 60.0 if os.environ.get("SOAK") else 0.0  # how long Redis stays away at least
pytestmark = pytest.mark.timeout(400)  # real processes, on a machine that may be busy

LISTS = ["user.id", "user.history", "user.age_band", "item.id", "item.tags", "context.device", "context.hour_band"]
NUMBERS = ["user.age", "item.price", "context.position", "context.hour", "statistics.rate", "statistics.since_last",
           "statistics.alike"]  # fmt: skip


@st.composite
def specs(draw: st.DrawFn) -> str:
    """Random parts, crosses, deep features and shapes over the small world's columns, some of them with serve_as."""
    parts = draw(st.sampled_from(['["wide", "deep"]', '["wide"]', '["deep"]']))
    crosses = draw(
        st.lists(st.lists(st.sampled_from(LISTS), min_size=1, max_size=3, unique=True), min_size=1, max_size=5)
    )
    lists = draw(st.lists(st.sampled_from(LISTS), unique=True))
    numbers = draw(st.lists(st.sampled_from(NUMBERS), min_size=0 if lists else 1, unique=True))
    hidden = draw(st.lists(st.integers(1, 9), max_size=3))
    head = SPEC[: SPEC.index("[wide]")].replace("last = {", "since_last = {")
    device = draw(st.sampled_from(['"category"', '{ type = "category", serve_as = "d1" }']))
    hour = draw(st.sampled_from(["", ", serve_as = 14"]))
    context = f'device = {device}\nhour = {{ type = "number", bands = [6, 12]{hour} }}\n'
    head = head.replace("[context]\n", f"[context]\n{context}")
    toml = f"""parts = {parts}
{head}
[wide]
alpha = {draw(st.floats(0.05, 0.5))}
l1 = {draw(st.floats(0, 0.3))}
crosses = {crosses}
[deep]
features = {lists + numbers}
embedding_dim = {draw(st.integers(1, 6))}
min_count = {draw(st.integers(1, 4))}
quantiles = {draw(st.integers(2, 9))}
hidden_units = {hidden}
micro_batch = {draw(st.integers(1, 9))}
"""
    return toml.replace("'", '"')


@settings(max_examples=40)
@given(specs(), st.integers(0, 1000))
def test_learner_and_ranker_give_the_same_score(toml: str, seed: int) -> None:
    """For random specs, the same features and the same version: within 1e-5, over bases and deltas."""
    spec = parse_spec(toml)
    log = records(spec, 36, seed)
    model, store = Model(spec), MemoryStore("small")
    builder, loader, version = VersionBuilder(model), VersionLoader(store, "small"), None
    for offset, record in enumerate(log):
        model.learn(record, offset)
        if offset % 4:
            continue
        number = offset // 4 + 1
        cut = builder.build(number, number - 1, 1, offset + 1, 0, {}, deep=True)
        store.put_blobs(cut.blobs)
        store.publish(cut.manifest)
        version = loader.load(number, version)
        for examples in (*log[offset - 3], *log[-1]):
            page = examples.page
            words = np.frombuffer(page.features, np.uint64)
            logits = serving_wide_logits(model, words) + serving_deep_logits(model, words)
            expected = 1 / (1 + np.exp(-logits.astype(np.float64)))
            np.testing.assert_allclose(score_features(version, page.features, len(page.items)), expected, atol=1e-5)


def test_replies_under_swaps_while_redis_comes_and_goes(
    nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path
) -> None:
    """Ranking goes on while Redis is away, publishing resumes when it's back, and every reply is its version's own."""
    house = House(nest, stack, topic_prefix, tmp_path)
    log = KafkaLog(house.settings, linger_ms=5)
    stopping = threading.Event()
    house.start("joiner", "learner", "ranker")
    asker = OpenLoopClient(log, LogRankers(log), rps=50, k=5, sample_every=1)
    player = threading.Thread(
        target=lambda: replay(
            log,
            world(200_000, 5),  # longer than all that is waited for below: there is always something to publish
            spec=house.spec,
            options=ReplayOptions(100.0),
            clock=Clock(),
            notify=print,
            stop=stopping.is_set,
        )
    )
    observed: list[RequestOutcome] = []
    store = RedisStore(house.settings, "small")

    def version() -> int:
        observed.extend(asker.take())
        return max((one.version for one in observed), default=0)

    def versioned() -> int:
        return sum(one.version > 0 for one in observed)

    try:
        asker.start()
        player.start()
        wait_until(
            # a slow ranker skips some, and answers by none until the first
            lambda: version() and len({one.version for one in observed}) > 20 and versioned() >= 120,
            "twenty versions to be served",
        )
        replies = [one.reply for one in observed if one.reply]
        first = rescore(store, "small", replies)  # before Redis forgets them
        stop_server(stack.root, "cache")
        down_from = len(observed)
        back_s = time.monotonic() + DOWN_S
        wait_until(
            lambda: version() and len(observed) >= down_from + 120 and time.monotonic() >= back_s,
            "120 replies without Redis",
        )
        assert not [one.error for one in observed[down_from:] if one.error], "ranking went on"
        before = version()
        up(stack.root)
        wait_until(lambda: version() >= before + 10, "publishing to resume")
        later = len(observed)
        wait_until(lambda: version() and len(observed) >= later + 150, "replies enough")
        asker.stop()
        wait_until(lambda: version() and not asker.running, "the last replies")
        second = rescore(store, "small", [one.reply for one in observed[later:] if one.reply])
    finally:
        stopping.set()
        up(stack.root)
        asker.close()
        player.join()
        house.end()
        store.close()
        log.close()
    assert not [one.error for one in observed if one.error]
    assert first.mixed == second.mixed == 0
    assert first.checked >= 100
    assert second.checked >= 100


def test_a_ranker_that_starts_without_redis(nest: Nest, stack: Stack, topic_prefix: str, tmp_path: Path) -> None:
    """A ranker that was killed and comes back while Redis is away answers with the version that it saved."""
    house = House(nest, stack, topic_prefix, tmp_path)
    log = KafkaLog(house.settings, linger_ms=5)
    try:
        house.start("joiner", "learner", "ranker")
        replay(log, world(200, 5), spec=house.spec, options=ReplayOptions(400.0), clock=Clock(), notify=print)
        saved = tmp_path / "local" / "ranker" / house.settings.worker / f"{topic_prefix}small" / "version"
        wait_until(saved.exists, "the ranker to save a version")
        house.kill("ranker")
        stop_server(stack.root, "cache")
        house.start("ranker")
        with kafka_caller(house.settings) as caller:
            reply = caller.rank("u1", k=5).reply
        assert reply.version >= 1
        assert "no_model" not in reply.notes
        assert len(reply.items) == 5
    finally:
        up(stack.root)
        house.end()
        log.close()
