"""Peers: the same features, and a dump by which anyone can run Vowpal Wabbit again."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.thalweg.contests import backtested, camps_spec, world
from thalweg.backtest import Ours
from thalweg.peers import PeerRates, River, VowpalWabbit, arguments

RATES = PeerRates(alpha=0.1, l1=0.0, l2=0.0, river=0.1)
EVENTS = world(300)


def test_the_dump_makes_vowpal_wabbit_predict_the_same(tmp_path: Path) -> None:
    """Given the dumped lines, `vw` on its own predicts each page as it did in the backtest."""
    dump, predictions = tmp_path / "vw.txt", tmp_path / "predictions.txt"
    vw = VowpalWabbit(camps_spec(), RATES, dump)
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
    spec = camps_spec()
    vw = VowpalWabbit(spec, RATES)
    _, backtest = backtested(EVENTS, ["deep"], spec=spec, peers=[vw])
    ours = backtest.entrants[0]
    assert isinstance(ours, Ours)
    assert ours.model.deep is not None
    assert ours.model.warm_starts == 2, "each freezes anew, at the same example"
    np.testing.assert_allclose(np.array(vw.features.buckets.boundaries), ours.model.deep.boundaries, rtol=1e-5)


def test_features_are_all_keys_but_the_bias_and_a_bucket_a_number() -> None:
    """An example has a feature for each wide key and each number; missing numbers have a bucket, too."""
    spec = camps_spec()
    features = VowpalWabbit(spec, RATES).features
    numbers = np.array([[np.nan, 0.5, 1.5, -2.0]], np.float32)
    features.buckets.boundaries = [np.array([0.0, 1.0], np.float32)] * 4
    assert features.buckets.of(numbers).tolist() == [[0, 2, 3, 1]]
