"""What pages without features know of organic installs: those that the joiner has written to `examples` by then."""

import math

import numpy as np
import pytest

from learner.training.model import Model
from producers.features import FeatureBuilder
from producers.source import WorldEvent
from stream.events.types import Impression, Item, TrainingEvent
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec
from tests.support.made_features import numbers_of, shown
from tests.support.producer_worlds import TEXT, install, page, tick

COUNTED = '[statistics]\nwithout_page = { kind = "count", of = "organic", by = ["item.id"] }'


def spec_of(policy: str = "eager") -> Spec:
    """The small spec, with a count of organic installs."""
    text = TEXT.replace("[statistics]", COUNTED).replace("POLICY", policy)
    return parse_spec(text.replace('window = "2s"', 'window = "2s"\norganic = "examples"'))


def seen(builder: FeatureBuilder, event: Impression) -> float:
    """What a page of one item is given."""
    return numbers_of(spec_of(), builder, shown(builder, event))["without_page"]


@pytest.mark.parametrize("policy", ["wait", "eager", "fake_negative"])
def test_an_organic_install_is_known_when_no_page_can_claim_it_any_more(policy: str) -> None:
    """Not at once, and not to the page whose arrival settles it: to the one behind that; once, though it's repeated."""
    spec = spec_of(policy)
    builder = FeatureBuilder(spec, 1)
    builder.process(install("i0", 0, user="v"))
    builder.process(install("i0", 0, user="v"))
    builder.process(install("i1", 1, user="w"))
    early = builder.process(page("r0", 1_000))
    assert not early.organic
    settling = builder.process(page("r1", 4_002))
    assert isinstance(early.event, Impression)
    assert isinstance(settling.event, Impression)
    assert [one.install_id for one in settling.organic] == ["i0", "i1"]
    behind = shown(builder, page("r2", 4_002))
    found = [numbers_of(spec, builder, one)["without_page"] for one in (early.event, settling.event, behind)]
    assert found == pytest.approx([0, 0, math.log(3)])


def test_one_that_a_page_claims_is_not_among_them() -> None:
    """It moves the statistics of labels; those of organic installs stay."""
    builder = FeatureBuilder(spec_of(), 1)
    builder.process(page("r0", 0))
    builder.process(install("i0", 1_000))
    builder.process(tick(60_000))
    assert seen(builder, page("r1", 60_000)) == 0


@pytest.mark.parametrize("organic", ["false", "true", '"topic"'])
def test_without_the_option_there_are_none(organic: str) -> None:
    """In a topic of their own the learner doesn't read them: no page may know of them."""
    text = TEXT.replace("POLICY", "eager").replace('window = "2s"', f'window = "2s"\norganic = {organic}')
    builder = FeatureBuilder(parse_spec(text), 2)
    assert not builder.process(install("i0", 0)).organic
    assert not builder.process(tick(60_000)).organic


def test_statistics_are_those_of_a_learner_that_reads_the_joiners_records() -> None:
    """Row by row, bit by bit, after the same labels and organic installs."""
    spec = spec_of()
    builder, model = FeatureBuilder(spec, 2), Model(spec)
    world: list[WorldEvent] = [Item(name) for name in "abc"]
    for n in range(60):
        user, item = "uvwx"[n % 4], "abc"[n % 3]
        world.append(page(f"r{n}", 700 * n, "abc"[n % 2 :], user))
        if n % 3:
            world.append(install(f"i{n}", 700 * n + 300, item, user if n % 2 else "stranger"))
    # A duplicate that the joiner no longer remembers: only the learner's memory detects it.
    world += [install("twice", 60_000, user="z"), tick(200_000), install("twice", 300_000, user="z")]
    for offset, event in enumerate([*world, tick(900_000)]):
        taken = builder.process(event)
        record: list[TrainingEvent] = [*taken.examples, *taken.organic]
        model.learn(record, offset)
    assert (model.organic > 10, model.examples > 60, model.duplicates) == (True, True, 1)
    rows = [one.table.rows() for one in (builder.statistics, model.statistics)]
    ours, theirs = (table[np.argsort(table[:, 0])] for table in rows)
    assert ours.tobytes() == theirs.tobytes()
