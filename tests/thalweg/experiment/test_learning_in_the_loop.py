"""What the closed loop's models learn: all traffic, whoever served it, and labels as they truly came."""

from collections import Counter

import msgspec
import numpy as np
import pytest

from learner.retraining.schedule import RetrainSchedule
from learner.training.dedup import source_of
from learner.training.model import Model
from stream.events.types import INSTALLED, LATE_POSITIVE, RETRACTION, WINDOW_CLOSED, Install
from stream.features.page_features import words_of
from stream.joiner.label_rules import label_rules
from stream.spec.parts import Policy
from stream.spec.spec import Spec
from tests.support.closed_loops import FEW, SPEC, Ran, loop_of, run
from tests.support.join_oracle import check_labels, joined, net_of
from tests.support.store_worlds import changed
from thalweg.experiment.assignment import Assignment

WARM = msgspec.structs.replace(SPEC.deep.warm_start, every=1_500, window=600, judged=500)
WARMED = msgspec.structs.replace(SPEC, deep=msgspec.structs.replace(SPEC.deep, warm_start=WARM))


def by_hand(ran: Ran, spec: Spec, seed: int) -> RetrainSchedule:
    """A model that has learned the log's records one by one, and has never served or published."""
    learning = RetrainSchedule(Model(spec, seed))
    for offset, (events, sent) in enumerate(zip(ran.examples, ran.records["examples"], strict=True)):
        (records,) = learning.model.record_encoder.of_events([events], [offset], source_of(sent.key))
        learning.learn(records, 0, 1)
    return learning


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_an_arm_without_traffic_learns_as_well_as_the_others(share: float) -> None:
    """Whatever its share of the users, its model is that which learned all records of the log: to the bit."""
    assign = Assignment("k", {"popular": 1 - share, "wide_deep": share}).arm_of
    ran = run(loop_of(["popular", "wide_deep"], assign=assign, spec=WARMED, seed=5), 300)
    served = ran.loop.served["wide_deep"]
    served.learn()
    learning = by_hand(ran, served.model.spec, 5)
    model = learning.model
    assert served.model.examples == model.examples > 2_500
    assert served.model.warm_starts == model.warm_starts
    assert learning.verdicts
    assert served.model.rejected == model.rejected == []
    features = [raw for shown in ran.shown for raw in shown.features][-50:]
    words = [words_of(raw, served.model.layout, 10) for raw in features]
    assert (ran.traffic.arm == 1).mean() == pytest.approx(share, abs=0.2)
    found = np.array(served.predict(words))
    expected = np.array([model.predict_encoded(*encoded) for encoded in model.encode_pages(words)])
    assert found.tobytes() == expected.tobytes()
    assert np.ptp(found) > 0.05
    late = ran.traffic.predictions["wide_deep"][-100:], ran.traffic.labels[-100:]
    assert late[0][late[1]].mean() > late[0][~late[1]].mean()


STORMY = changed(
    FEW,
    reports={
        "retracted": 0.3, "duplicated": 0.2, "late": 0.2, "late_by_s": (60.0, 80_000.0),
        "duplicate_after_s": (60.0, 80_000.0), "named": 0.5,
    },
)  # fmt: skip


@pytest.mark.parametrize("policy", ["wait", "eager", "fake_negative"])
def test_labels_are_those_of_an_offline_join(policy: Policy) -> None:
    """With events that are late, repeated, retracted: the last labels that the learner gets are what the events say."""
    ran = run(loop_of(["popular", "wide"], parameters=STORMY, policy=policy), 600, to_the_end=True)
    rules = label_rules(ran.loop.spec)
    assert rules.policy == policy
    said = [examples for record in ran.examples for examples in record]
    check_labels(said, ran.events, rules, ran.ingests_ms)
    truth = joined(ran.events, rules, ran.ingests_ms)
    assert min(truth.late, truth.repeated) > 5
    installs = [event for event in ran.events if isinstance(event, Install)]
    assert sum(event.retracted for event in installs) > 20
    assert len({(one.install_id, one.retracted) for one in installs}) < len(installs) - 10
    assert sum(not one.request_id for one in installs) > 50
    net = net_of(said)
    assert len(net) == 10 * len(truth.pages) > 3_500
    assert sum(net.values()) > 60
    reasons = Counter(reason for examples in said for reason in examples.reasons)
    expected = {
        "wait": {INSTALLED, WINDOW_CLOSED, RETRACTION},  # what comes before the close is no correction
        "eager": {INSTALLED, WINDOW_CLOSED, RETRACTION, LATE_POSITIVE},
        "fake_negative": {WINDOW_CLOSED, RETRACTION, LATE_POSITIVE},
    }
    assert {reason for reason, count in reasons.items() if count} >= expected[policy]
    model = ran.loop.served["wide"].model
    assert model.rejected == []
    assert model.examples == len({example for examples in said for example in examples.ids})
