"""Nothing is learned twice: a learner remembers fewer example ids than there are with open windows, on real Kafka."""

import random
import time

import pytest

from stream.events.topics import EVENTS
from stream.log.kafka_groups import group_commits
from tests.support.event_flow import SEEDS, SOAK, Joiners, flowing, grown, shared_by
from tests.support.forked_services import alive
from tests.support.system_labels import labels_by_events, labels_emitted, positive
from tests.support.waiting import wait_until

REMEMBERED = 20_000  # ids of a partition, by the learner
OPEN_PAGES = 120_000 if SOAK else 12_000  # each of four items that are installed: more in each of two partitions
ROUNDS = 10 if SOAK else 1
FEW_GROUPS_A_S = 10.0  # while a killed worker's partitions wait for another, others emit less than is remembered

pytestmark = [pytest.mark.timeout(1_800 if SOAK else 300), pytest.mark.parametrize("seed", SEEDS)]


@pytest.mark.parametrize(
    "joiners",
    [
        {"policy": policy, "window": "1h", "partitions": 2, "dedup_ids": REMEMBERED}
        for policy in ("eager", "fake_negative")
    ],
    indirect=True,
    ids=["eager", "fake_negative"],
)
def test_nothing_is_learned_twice(joiners: Joiners, seed: int) -> None:
    """Workers are killed, come and go, while windows are open: labels are right, and whatever was emitted again the
    learner drops."""
    rng = random.Random(seed)
    joiners.show(OPEN_PAGES)
    joiners.start("a")
    joiners.start_learner()
    with flowing(joiners, seed, FEW_GROUPS_A_S) as flow:
        grown(joiners, 0, "work on the open pages")
        joiners.kill("a")  # in the midst of them
        joiners.start("a")
        for _ in range(ROUNDS):
            shared_by(joiners, "a")
            joiners.start("b")
            shared_by(joiners, "a", "b")
            for victim in rng.sample("ab", 2):
                time.sleep(rng.uniform(0.0, 0.4))
                joiners.kill(victim)
                joiners.start(victim)
                shared_by(joiners, "a", "b")
            joiners.remove("b")
        shared_by(joiners, "a")
        flow.stop()
        joiners.catch_up()
        found = joiners.audit()
    assert found.is_clean, found.differences[:5]
    labels, expected = labels_emitted(joiners), labels_by_events(joiners)
    assert len(expected) == 4 * (OPEN_PAGES + flow.pages)
    assert positive(labels) == positive(expected)
    assert labels == expected or joiners.spec.label.policy == "eager", "whose windows are open"
    emitted, again = found.figures["emitted"], found.figures["emitted_again"]
    wait_until(lambda: sum(joiners.learned()) == emitted, "all to be learned")
    assert joiners.learned() == (emitted - again, again)


@pytest.mark.parametrize("joiners", [{"dedup_ids": 2 * REMEMBERED}], indirect=True, ids=["more"])
def test_a_learner_that_remembers_less_than_joiners_count_on_ends(joiners: Joiners, seed: int) -> None:
    """Their commits say how much they may emit again; with as many ids as theirs it learns."""
    joiners.start("a")
    with flowing(joiners, seed):
        shared_by(joiners, "a")
        wait_until(lambda: group_commits(joiners.settings, "joiner", EVENTS.name), "a commit")
        joiners.start_learner(dedup_ids=REMEMBERED)
        small = joiners.pids.pop("learner")
        wait_until(lambda: not alive(small), "the learner to end")
        assert f"THALWEG_DEDUP_IDS={2 * REMEMBERED} or more" in (joiners.home / "learner.log").read_text()
        joiners.start_learner()
        wait_until(lambda: joiners.learned()[0], "the learner to learn")
