"""Quarantine: evidence of refused versions, one a cause, with the weights that refused them, bounded."""

import json
from pathlib import Path

import numpy as np
import pytest

from learner.publishing import quarantine as module
from learner.publishing.gate import PublishGate
from learner.publishing.quarantine import Quarantine, evidence_arrays
from learner.training.model import Model
from stream.features.page_features import id_of
from stream.snapshots.payload import digest_of
from stream.snapshots.verdict import Verdict
from tests.support.learner_world import records, small_spec
from tests.support.planted_faults import invert


@pytest.fixture(scope="module")
def judged() -> tuple[Model, PublishGate, Verdict]:
    """A model that was refused."""
    spec = small_spec()
    model = Model(spec)
    gate = PublishGate(model)
    log = records(spec, 300)
    for offset, record in enumerate(log):
        model.learn(record, offset)
        if offset == len(log) - 2:
            assert gate.judge(deep=True).passed
    invert(model)
    verdict = gate.judge(deep=True)
    assert not verdict.passed
    return model, gate, verdict


def test_a_cause_is_recorded_once_until_a_version_passes(
    judged: tuple[Model, PublishGate, Verdict], tmp_path: Path
) -> None:
    """A refusal every 250 ms for one reason is one file; another reason is another; a pass begins again."""
    model, gate, verdict = judged
    folder = Quarantine(tmp_path)
    for version in (7, 8, 9):
        folder.add(version, verdict, model, gate)
    folder.add(10, Verdict("shift", "it moved"), model, gate)
    assert sorted(path.name for path in tmp_path.glob("*.json")) == [
        f"000000000007-{verdict.cause}.json", "000000000010-shift.json"
    ]  # fmt: skip
    assert len(list(tmp_path.glob("*.npz"))) == 1, "the same weights are one file"
    folder.passed()
    folder.add(11, verdict, model, gate)
    assert len(list(tmp_path.glob("*.json"))) == 3


def test_evidence_with_a_page_of_an_erased_user_goes(
    judged: tuple[Model, PublishGate, Verdict], tmp_path: Path
) -> None:
    """Its figures stay; so do the weights of evidence without one, but for an archive that nobody can read."""
    model, gate, verdict = judged
    folder = Quarantine(tmp_path)
    assert folder.erase(np.array([5], np.uint64)) == 0, "there is no folder yet"
    folder.add(7, verdict, model, gate)
    users = {id_of(model.layout.seeds["user.id"], f"u{k}") for k in range(20)}
    shown = users & set(evidence_arrays(model, gate)["page_words"].tolist())
    assert folder.erase(np.array([id_of(model.layout.seeds["user.id"], "nobody")], np.uint64)) == 0
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    assert folder.erase(np.array([shown.pop()], np.uint64)) == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_the_evidence_shows_what_was_refused(judged: tuple[Model, PublishGate, Verdict], tmp_path: Path) -> None:
    """Reason, numbers, and weights under their digest; wide scores can be computed from them again."""
    model, gate, verdict = judged
    Quarantine(tmp_path).add(7, verdict, model, gate)
    evidence = json.loads(next(tmp_path.glob("*.json")).read_bytes())
    assert evidence["reason"] == verdict.reason
    assert evidence["numbers"] == verdict.numbers
    assert (evidence["examples"], evidence["left_out"]) == (model.examples, [])
    raw = (tmp_path / evidence["weights"]).read_bytes()
    assert evidence["weights"] == f"{digest_of(raw)}.npz"
    with np.load(tmp_path / evidence["weights"], allow_pickle=False) as archive:
        arrays = dict(archive)
    found = gate.evidence()
    assert found is not None
    live, scores = found
    weights = arrays["wide_weights"][np.searchsorted(arrays["wide_keys"], live.pages.keys.keys)]
    wide = np.add.reduceat(weights, live.pages.keys.offsets[:-1])
    np.testing.assert_array_equal(wide + scores.deep.astype(np.float64), arrays["refused_log_odds"])
    assert model.deep is not None
    np.testing.assert_array_equal(arrays["dense"], model.deep.tower.flat)


def test_evidence_is_bounded(
    judged: tuple[Model, PublishGate, Verdict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest files stay; weights over their bound go before what is said of them; other files stay."""
    model, gate, verdict = judged
    (tmp_path / "000000000001.json").write_text("not written by us")
    monkeypatch.setattr(module, "EVIDENCE_MAX", 4)
    folder = Quarantine(tmp_path)
    for version in range(10, 20):
        folder.passed()
        model.examples += 1
        assert model.deep is not None
        model.deep.tower.layers()[0][0][0, 0] += 1
        folder.add(version, verdict, model, gate)
    size = max(path.stat().st_size for path in tmp_path.glob("*.npz"))
    assert len(list(tmp_path.glob("*.json"))) == len(list(tmp_path.glob("*.npz"))) == 4
    monkeypatch.setattr(module, "BYTES_MAX", 2 * size)
    folder.passed()
    folder.add(20, verdict, model, gate)
    assert len(list(tmp_path.glob("*.json"))) == 4
    assert len(list(tmp_path.glob("*.npz"))) == 2
    monkeypatch.setattr(module, "WEIGHTS_BYTES_MAX", 2_000)
    folder.passed()
    folder.add(21, verdict, model, gate)
    evidence = json.loads(max(tmp_path.glob("*.json")).read_bytes())
    assert "page_words" in evidence["left_out"]
    assert (tmp_path / evidence["weights"]).stat().st_size < size
