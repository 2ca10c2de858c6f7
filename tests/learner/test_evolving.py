"""Models that evolve to a changed spec: beside a learner, and without one."""

from pathlib import Path

import pytest
from msgspec import structs

from learner.checkpoints.checkpoint import take
from learner.checkpoints.checkpoint_files import ANCHORED
from learner.promotion import Promotion
from learner.publishing.publisher import Publisher, publish_config
from learner.service import _newest
from stream.events.codec import encode
from stream.events.topics import EXAMPLES, EXAMPLES_DLQ, ITEMS
from stream.events.types import Item
from stream.log.memory_log import MemoryLog
from stream.runtime.errors import CheckpointError, LogError
from stream.snapshots.memory_store import MemoryStore
from tests.support.held_out_models import holding_spec, judge_often
from tests.support.learned_models import assert_same
from tests.support.learner_world import small_spec
from tests.support.retrain_house import CUT, SEEN, SPEC, House, learn_to, promoted, saved
from tests.support.waiting import wait_until

EVOLVED = small_spec(**{"every = 300, window = 200": "window = 200, judged = 150", "[8, 4]": "[12, 4]"})


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A learner has learned 40 records of 80, and written a checkpoint."""
    return House.begun(tmp_path)


def test_a_model_evolves_while_the_learner_learns(house: House) -> None:
    """The learner swaps to the changed spec, and resumes with it after a restart; the old one is refused then."""
    spec = small_spec(
        **{
            "every = 300, window = 200": "window = 200, judged = 150",
            '"item.price",': '"item.price", "item.maker",',
            'price = "number"': 'price = "number"\nmaker = "category"',
            'features = ["user.id", "item.id"]': 'features = ["user.id", "item.id", "item.maker"]',
        }
    )
    for n in range(30):
        house.log.send(ITEMS.name, 0, encode(Item(f"i{n}", {"maker": f"m{n % 3}"})), b"i%d" % n)
    outcome = house.retrain(spec)
    assert outcome.verdict.promoted, outcome
    house.grow()
    learner = house.learner()
    learn_to(learner, 95)
    store = MemoryStore(SPEC.name)
    clock = iter(range(10**6, 10**9, 10**5)).__next__
    config = publish_config(learner.model, house.settings)
    publisher = learner.publisher = Publisher(learner.model, store, config, clock, learner.used)
    wait_until(lambda: publisher.maybe_publish(learner.offset), "a version of the old spec")
    promoted(Promotion(learner, house.settings))
    assert learner.model.spec.fingerprint() == spec.fingerprint()
    learn_to(learner, 97)
    wait_until(lambda: publisher.maybe_publish(learner.offset), "a version of the new spec")
    publisher.uploader.stop()
    live = store.manifest(publisher.version)
    assert (live.parent, live.fingerprint) == (publisher.version - 1, spec.fingerprint())
    assert all(not part.deltas and not part.merged for part in live.parts.values())
    makers = [key for key in learner.model.wide.table.rows()[:, 0] if int(key) & 255 == 3]
    assert len(makers) == 3
    learn_to(learner, 100)
    assert learner.model.examples == 900
    assert learner.dead_letters.count == 0
    learner.maybe_checkpoint(now=True)
    assert_same(house.learner(spec).model, learner.model)
    with pytest.raises(CheckpointError, match="thalweg evolve"):
        house.learner()


def test_a_model_that_evolved_without_a_learner_waits_for_its_spec(house: House) -> None:
    """A learner that starts with the changed spec goes on with it."""
    outcome, spec = house.retrain(EVOLVED), EVOLVED
    learner = house.learner(spec)
    assert learner.offset == outcome.offset
    assert learner.model.spec.identity() == spec.identity()
    assert house.retrain_files().read() is None
    assert house.learner(spec).offset == outcome.offset


def test_what_no_learner_read_before_a_model_that_evolved_has_its_dead_letters(tmp_path: Path) -> None:
    """The new model learned those records in the retrain, which writes none: what is bad would be nowhere."""
    house = House.begun(tmp_path, seen=60)
    house.log.send(EXAMPLES.name, 0, b"no record", b"0")
    house.grow(60, SEEN)
    assert house.retrain(EVOLVED).offset == SEEN + 1
    house.log.send(EXAMPLES.name, 0, b"no record", b"0")
    again = house.copied("restart")

    def dead_letters() -> int:
        return house.log.ends(EXAMPLES_DLQ.name)[0]

    unavailable = MemoryLog({EXAMPLES.name: 1}, lambda: 0)  # without a topic for dead letters
    with pytest.raises(LogError):
        _newest(again.settings, EVOLVED, again.files, lambda: unavailable)
    assert again.retrain_files().read() is not None, "the next start tries again"
    learner = again.learner(EVOLVED)
    assert (learner.offset, dead_letters()) == (SEEN + 1, 1)
    again.learner(EVOLVED)
    assert dead_letters() == 1
    learn_to(learner, SEEN + 2)
    assert dead_letters() == 2


def test_records_that_the_log_no_longer_has_keep_no_evolved_model_away(house: House) -> None:
    """It has learned them."""
    house.retrain(EVOLVED)
    house.log.truncate(EXAMPLES.name, 0, CUT + 10)
    assert house.learner(EVOLVED).offset == SEEN


def test_a_model_that_evolved_from_what_was_rolled_back_is_dropped(house: House) -> None:
    """Nobody has judged it beside the model that learning returned to."""
    learner = house.learner()
    newest = house.files.newest()
    assert newest is not None
    assert newest.origin is not None
    house.files.pin(newest.origin.name)
    assert house.retrain(EVOLVED).verdict.promoted
    learn_to(learner, SEEN)
    learner.roll_back("because")
    learner.maybe_checkpoint(now=True)
    with pytest.raises(CheckpointError, match="thalweg evolve"):
        house.learner(EVOLVED)
    assert house.retrain_files().read() is None
    assert house.learner().model.roll_backs == 1


def test_a_checkpoint_without_its_spec_needs_it_named(house: House) -> None:
    """As earlier builds wrote them."""
    learner = house.learner()
    found = take(learner.model, learner.offset + 1, 0, 0)
    house.files.write(type(found)(structs.replace(found.meta, spec=""), found.arrays))
    with pytest.raises(CheckpointError, match="--before FILE"):
        house.retrain()


def test_an_evolved_model_can_be_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was promoted as is pinned: checkpoints of the old spec are of no use to it."""
    judge_often(monkeypatch)
    base = {"every = 300, window = 200": "window = 200, judged = 150"}
    house = House(tmp_path)
    learner = house.learner(holding_spec(0.2, **base))
    for end in (10, 20, 30, CUT):
        learn_to(learner, end)
        learner.maybe_checkpoint(now=True)
    assert learner.model.held_out.begun
    assert house.retrain(holding_spec(0.2, **base, **{"[8, 4]": "[12, 4]"})).verdict.promoted
    learn_to(learner, SEEN)
    promotion = Promotion(learner, house.settings)
    promoted(promotion)
    assert learner.model.warm_starts == 1
    assert learner._pinned(ANCHORED) is None
    saved(learner, promotion)
    learner.obey_judgements()
    assert learner._pinned(ANCHORED) is not None
    held_out = learner.model.held_out.examples
    learner.roll_back("because", ANCHORED)
    assert learner.model.roll_backs == 1
    assert learner.model.held_out.examples == held_out > 0
