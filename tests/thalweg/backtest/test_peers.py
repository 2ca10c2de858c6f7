"""Peers: the same features, and a dump by which anyone can run Vowpal Wabbit again."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from producers.features import FeatureBuilder
from producers.source import WorldEvent
from stream.events.types import Impression, Install
from stream.features.encoder import one_page
from stream.features.page_features import Layout, select
from stream.spec.parts import Policy
from stream.spec.spec import Spec
from tests.support.backtest_world import START_MS, TEXT, backtested, camps_spec, world
from thalweg.backtest import peers
from thalweg.backtest.contest import peer_options
from thalweg.backtest.entrants import ModelEntrant
from thalweg.backtest.peers import BITS, PeerFeatures, PeerRates, River, VowpalWabbit, arguments

RATES = PeerRates(alpha=0.1, l1=0.0, l2=0.0, river=0.1)
EVENTS = world(300)


def test_texts_of_features_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many features there are, so few are remembered, and each is written as its number."""
    monkeypatch.setattr(peers, "TEXTS_MAX", 3)
    texts = peers.Texts()
    assert [texts[feature] for feature in (5, 6, 5, 7, 8, 5)] == ["5", "6", "5", "7", "8", "5"]
    assert sorted(texts) == [5, 8]


def expecting(base_rate: float) -> Spec:
    """The camps' spec with a base rate."""
    spec = camps_spec()
    return msgspec.structs.replace(spec, label=msgspec.structs.replace(spec.label, base_rate=base_rate))


@pytest.mark.parametrize("base_rate", [0.5, 0.03])
def test_peers_begin_at_the_base_rate(base_rate: float) -> None:
    """What they haven't learned yet they predict as our models do."""
    spec = expecting(base_rate)
    scores, _ = backtested(EVENTS, ["wide"], spec=spec, peers=[VowpalWabbit(spec, RATES), River(spec, RATES)])
    assert sorted(scores.names) == ["river", "vw", "wide"]
    np.testing.assert_allclose(scores.predictions[:, 0], base_rate, rtol=1e-5)


@pytest.mark.parametrize("base_rate", [0.5, 0.2])
def test_the_dump_makes_vowpal_wabbit_predict_the_same(base_rate: float, tmp_path: Path) -> None:
    """Given the dumped lines, `vw` on its own predicts each page as it did in the backtest."""
    dump, predictions = tmp_path / "vw.txt", tmp_path / "predictions.txt"
    vw = VowpalWabbit(expecting(base_rate), RATES, dump)
    scores, _ = backtested(EVENTS, peers=[vw])
    vw.close()
    command = [sys.executable, "-m", "vowpalwabbit", "-d", str(dump), *arguments(RATES).split(), "-p", str(predictions)]
    subprocess.run([*command, "--quiet"], check=True, timeout=60)
    first: dict[int, float] = {}
    for line in predictions.read_text().splitlines():
        value, tag = line.split()
        first.setdefault(int(tag), float(value))
    assert len(first) == len(scores.labels)
    np.testing.assert_allclose([first[row] for row in range(len(first))], scores.predictions[0], atol=1e-5)
    assert scores.predictions[0].std() > 0.1


def test_both_peers_learn() -> None:
    """What fits is told from what doesn't, by either."""
    spec = camps_spec()
    scores, _ = backtested(EVENTS, peers=[VowpalWabbit(spec, RATES), River(spec, RATES)])
    assert scores.names == ["vw", "river"]
    assert scores.auc(0, 200) > 0.7
    assert scores.auc(1, 200) > 0.7


def test_buckets_are_the_deep_parts_quantiles() -> None:
    """After the same examples the boundaries are those of the deep part: the same sample, frozen at the same times."""
    spec = camps_spec(TEXT.replace("warm_start = { every = 300, window = 100, judged = 100 }\n", ""))
    vw = VowpalWabbit(spec, RATES)
    _, backtest = backtested(EVENTS, ["deep"], spec=spec, peers=[vw])
    ours = backtest.entrants[0]
    assert isinstance(ours, ModelEntrant)
    assert ours.model.deep is not None
    np.testing.assert_allclose(np.array(vw.features.buckets.boundaries), ours.model.deep.boundaries, rtol=1e-5)


def test_features_are_keys_ids_and_buckets() -> None:
    """The wide keys, what the deep part reads and no wide feature is, a bucket a number: nothing stands there twice."""
    spec = camps_spec(TEXT.replace('["user.camp", "item.tags", "st', '["user.id", "user.camp", "item.tags", "st'))
    maker = FeatureBuilder(spec, 1)
    for event in EVENTS[:20]:
        maker.process(event)
    page = maker.process(Impression("p", START_MS, "u1", ["i2", "i3"])).event
    assert isinstance(page, Impression)
    found, numbers = PeerFeatures(spec).of(one_page(np.frombuffer(page.features, np.uint64)))
    assert numbers.shape == (2, 4)
    wide, deep = ["user.id", "user.camp x item.tags"], ["user.camp", "item.tags"]
    for features in found:
        assert len(set(features)) == len(features) == len(wide) + len(deep) + 4
        assert max(features) < 2**BITS
    one, other = found
    assert one[0] == other[0], "their user"
    assert one[2] == other[2], "their user's camp"
    assert one[3] != other[3], "their tags"


def test_categories_are_learned_though_no_cross_has_them() -> None:
    """What only the deep part reads decides here: peers see it, too."""
    text = TEXT.replace('crosses = [["user.camp", "item.tags"]]', "")
    events: list[WorldEvent] = []
    for event in EVENTS:
        events += [event] * (not isinstance(event, Install))
        if isinstance(event, Impression):
            at_ms, name = event.time_ms + 1, event.request_id
            warm = [item for item in event.items if int(item[1:]) % 2]
            events += [Install(event.user, item, at_ms, f"{name}{item}", name) for item in warm]
    for deep, least, most in (('"statistics.user_last"', 0.0, 0.7), ('"item.tags"', 0.95, 1.0)):
        spec = camps_spec(text.replace('"user.camp", "item.tags", "statistics.*"', deep))
        scores, _ = backtested(events, spec=spec, peers=[VowpalWabbit(spec, RATES), River(spec, RATES)])
        for i in range(2):
            assert least <= scores.auc(i, 100) <= most, scores.names[i]


@pytest.mark.parametrize("policy", ["eager", "fake_negative"])
def test_peers_weigh_as_the_policy_says(policy: Policy, tmp_path: Path) -> None:
    """A late positive, which corrects a negative: 1 / (1 − p), by what the peer predicts just before; others: 1."""
    spec = camps_spec()
    spec = msgspec.structs.replace(spec, label=msgspec.structs.replace(spec.label, policy=policy))
    dump = tmp_path / "vw.txt"
    vw, river = VowpalWabbit(spec, RATES, dump), River(spec, RATES)
    weights: list[float] = []
    learn_one = river._model.learn_one

    def weighed(x: dict[int, float], y: bool, w: float) -> None:
        weights.append(w)
        learn_one(x, y, w)

    river._model.learn_one = weighed
    backtested(EVENTS[:100], spec=spec, peers=[vw, river])
    vw.close()
    learned = [line.split() for line in dump.read_text().splitlines() if not line.startswith("'")]
    told = [float(words[1]) for words in learned]
    assert len(told) == len(weights) > 50
    labels = [words[0] for words in learned]
    for ones in (told, weights):
        negatives, positives = ({one for one, its in zip(ones, labels, strict=True) if its == of} for of in ("-1", "1"))
        assert negatives == {1.0}
        assert min(positives) == 1.0 if policy == "eager" else min(positives) > 1.0


def test_defaults_are_the_tuned_draw() -> None:
    """To two digits, as it stands in the file that the benchmark takes."""
    tuned = json.loads((Path(__file__).parents[3] / "benchmarks" / "tuned.json").read_text())
    wanted = tuned["vw"] | tuned["river"]
    assert asdict(PeerRates()) == {name: float(f"{value:.2g}") for name, value in wanted.items()}
    assert peer_options(["alpha=0.5", "river=0.1"])[0] == replace(PeerRates(), alpha=0.5, river=0.1)


def test_features_are_all_keys_but_the_bias_and_a_bucket_a_number() -> None:
    """An example has a feature for each wide key and each number; missing numbers have a bucket, too."""
    spec = camps_spec()
    features = VowpalWabbit(spec, RATES).features
    numbers = np.array([[np.nan, 0.5, 1.5, -2.0]], np.float32)
    features.buckets.boundaries = [np.array([0.0, 1.0], np.float32)] * 4
    assert features.buckets.of(numbers).tolist() == [[0, 2, 3, 1]]


def test_a_served_score_does_not_depend_on_the_place() -> None:
    """The position is held at its `serve_as`, however much was learned of it; elsewhere it's what it is."""
    text = TEXT.replace("[statistics]", '[context]\nposition = { type = "number", serve_as = 2 }\n[statistics]')
    spec = camps_spec(text.replace('"item.tags", "statistics.*"', '"item.tags", "context.position", "statistics.*"'))
    events: list[WorldEvent] = []
    for event in EVENTS:
        events += [event] * (not isinstance(event, Install))
        if isinstance(event, Impression):  # whoever is shown something takes the first of it
            install_id = f"{event.request_id}-first"
            events.append(Install(event.user, event.items[0], event.time_ms + 1, install_id, event.request_id))
    maker, vw = FeatureBuilder(spec, 1), VowpalWabbit(spec, RATES)
    for event in events:
        page = maker.process(event).event
    page = maker.process(Impression("p", START_MS, "u1", ["i2", "i3", "i4"])).event
    assert isinstance(page, Impression)
    words, order = np.frombuffer(page.features, np.uint64).copy(), [2, 0, 1]
    moved = select(Layout(spec), words, order)
    untaught = vw.score(words)
    backtested(events, spec=spec, peers=[vw])
    scores, predicted = vw.score(words), vw.predict(words, 0)
    np.testing.assert_array_equal(vw.score(moved), scores[order])
    assert scores[1] == predicted[1], "it stands where all are served"
    assert predicted[0] > scores[0] + 0.1, "the first place was learned"
    assert np.ptp(untaught) == 0
    assert scores.tolist() != untaught.tolist()
    vw.close()
