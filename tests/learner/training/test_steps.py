"""Records learned several in a step leave the state that they leave one by one, to the bit, whatever is among them."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.training.drift import DUE
from learner.training.model import Model
from stream.events.codec import encode_record
from stream.events.topics import EXAMPLES
from stream.events.types import LATE_POSITIVE, RETRACTION, BadPart, Examples, Organic, TrainingEvent
from stream.log.protocol import Record
from stream.spec.spec import Spec
from tests.support.learned_models import assert_same
from tests.support.learner_world import records, small_spec

ORGANIC = 'alike = { kind = "affinity", of = "item.id", to = "user.history" }'
RETRIEVAL = """[retrieval]
together = 9
neighbours = 9
kept = { list_length = 4, vector_dim = 2 }"""
WORLDS = {
    "plain": {},
    "wait": {"[label]": '[label]\npolicy = "wait"'},
    "fake_negative": {"[label]": '[label]\npolicy = "fake_negative"'},
    "wide": {'name = "small"': 'name = "small"\nparts = ["wide"]'},
    "deep": {'name = "small"': 'name = "small"\nparts = ["deep"]'},
    "organic": {
        ORGANIC: f'{ORGANIC}\npopular = {{ kind = "count", of = "organic", by = ["item.id"] }}',
        "[label]": '[label]\norganic = "examples"',
    },
    "lift": {
        ORGANIC: 'together = { kind = "lift", of = "installs", by = ["user.id", "item.id"], neighbours = 3 }',
        "[label]": '[label]\norganic = "examples"',
    },
    "retrieval": {"[label]": f'{RETRIEVAL}\n[label]\norganic = "examples"'},
    "admitted": {"l1 = 0.1\nfeatures": "l1 = 0.1\nadmit = 2\nfeatures"},
    "expiring": {"l1 = 0.1\nfeatures": 'l1 = 0.1\nexpire = "200s"\nfeatures'},
    "forgetting": {
        "l1 = 0.1\nfeatures": 'l1 = 0.1\nhalf_life = "20s"\nfeatures',
        "micro_batch = 4": 'micro_batch = 4\nhalf_life = "30s"',
    },
    "retrains": {"every = 300, window = 200": "every = 40, window = 30"},
    "forgets": {"[label]": '[drift]\naction = "forget"\n[label]'},
    "wide_bound": {},
    "statistics_bound": {},
    "rows_bound": {},
    "ids_bound": {},
}


def spec_of(world: str) -> Spec:
    """Its spec; bounds smaller than a spec may set, so that they matter."""
    spec = small_spec(**WORLDS[world])
    if world == "wide_bound":
        return msgspec.structs.replace(spec, wide=msgspec.structs.replace(spec.wide, max_keys=150))
    if world == "rows_bound":
        return msgspec.structs.replace(spec, deep=msgspec.structs.replace(spec.deep, max_rows=24))
    return msgspec.structs.replace(spec, max_statistics=110) if world == "statistics_bound" else spec


def corrected(examples: Examples, reason: int) -> Examples:
    """A later label of the page's first item."""
    label = int(reason == LATE_POSITIVE)
    return Examples(examples.page, [examples.ids[0] ^ reason], examples.positions[:1], [label], [1.0], [reason], [9])


def turned(examples: Examples) -> Examples:
    """The page with all labels the other way round."""
    return msgspec.structs.replace(examples, labels=[1 - label for label in examples.labels])


def log_of(spec: Spec, seed: int, drift: bool) -> list[Record]:
    """Records of one to four pages, with corrections, duplicates, organic installs, and some that are no good."""
    random = np.random.default_rng(seed)
    pages = [page for record in records(spec, 240, seed=seed % 5, per_record=1) for page in record]
    found, first = list[Record](), 0
    while first < len(pages):
        last = first + int(random.integers(0, 5))
        events: list[TrainingEvent] = list(pages[first:last])
        if drift and first > 120:
            events = [turned(event) for event in events if isinstance(event, Examples)]
        chance = random.random()
        if events and chance < 0.1:
            events += [
                corrected(pages[int(random.integers(first + 1))], int(random.choice([LATE_POSITIVE, RETRACTION])))
            ]
        elif chance < 0.15:
            events += pages[max(0, first - 3) : first]  # duplicates
        elif chance < 0.2:
            events += [Organic(f"u{n}", f"i{n}", 1_000_000, f"o{first + n}") for n in range(2)]
        elif chance < 0.23 and events:
            events = [*events, msgspec.structs.replace(pages[0], labels=[7, 0, 0])]
        if chance > 0.9 and events:  # it takes the way of events
            events = [
                msgspec.structs.replace(e, page=msgspec.structs.replace(e.page, user="ü")) for e in pages[first:last]
            ]
        value = b"no msgpack" if chance > 0.98 else encode_record(events)
        key = b"%d" % random.integers(2) if random.random() < 0.9 else None
        found.append(Record(EXAMPLES.name, 0, len(found), len(found), key, value))
        first = last
    return found


@pytest.mark.parametrize("world", WORLDS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10_000), drift=st.booleans(), sizes=st.lists(st.integers(1, 90), min_size=1, max_size=4))
def test_several_in_a_step_are_as_one_by_one(world: str, seed: int, drift: bool, sizes: list[int]) -> None:
    """In chunks of any size; with evictions, admissions, expiries, calls for retrains, drift, all policies."""
    spec = spec_of(world)
    log = log_of(spec, seed, drift)
    alone, together = Model(spec), Model(spec)
    rejected, rejected_together = list[Sequence[BadPart]](), list[Sequence[BadPart]]()
    if drift:  # as after an alarm
        alone.drift.clock[DUE] = together.drift.clock[DUE] = 80 + seed % 200
    if world == "ids_bound":
        alone.learned_ids.ids_max = together.learned_ids.ids_max = 30
    for record in log:
        (chunk,) = alone.record_encoder.records([record])
        assert list(alone.steps(chunk)) == [(0, 1)]
        rejected += chunk.rejected
        alone.learn_records(chunk, 0, 1)
    first = 0
    while first < len(log):
        last = first + sizes[first % len(sizes)]
        for chunk in together.record_encoder.records(log[first:last]):
            rejected_together += chunk.rejected
            for a, b in together.steps(chunk):
                together.learn_records(chunk, a, b)
        first = last
    assert_same(alone, together)
    assert [*map(list, rejected)] == [*map(list, rejected_together)]
    assert sorted(alone.installs) == sorted(together.installs)
    assert alone.retrain_wanted == together.retrain_wanted


@pytest.mark.parametrize("action", ["retrain", "forget", "freeze"])
def test_drift_is_found_at_the_same_example(action: str) -> None:
    """Labels turn over: what follows comes where it comes one by one."""
    spec = small_spec(**{"every = 300": "every = 50000", "[label]": f'[drift]\naction = "{action}"\n[label]'})
    events = [page for record in records(spec, 1_800, per_record=1) for page in record]
    odd = [int(item[1:]) % 2 for page in events for item in page.page.items]
    labels = np.array(odd).reshape(-1, 3) ^ (np.arange(len(events)) >= 1_000)[:, None]
    log = [
        Record(EXAMPLES.name, 0, n, n, b"0", encode_record([msgspec.structs.replace(page, labels=of.tolist())]))
        for n, (page, of) in enumerate(zip(events, labels, strict=True))
    ]
    alone, together = Model(spec), Model(spec)
    for model, size in (alone, 1), (together, 70):
        for first in range(0, len(log), size):
            for chunk in model.record_encoder.records(log[first : first + size]):
                for a, b in model.steps(chunk):
                    model.learn_records(chunk, a, b)
    assert alone.drift.alarms[0].slice == "all"
    assert alone.drift.alarms == together.drift.alarms
    assert alone.retrain_wanted == together.retrain_wanted == ("drift" if action == "retrain" else "")
    assert (alone.warm_start_at > 3_000) == (action == "retrain")
    assert_same(alone, together)


def test_waiting_records_are_learned_in_few_steps() -> None:
    """Else the test above would compare a way with itself."""
    spec = small_spec()
    model = Model(spec)
    log = [encode_record(record) for record in records(spec, 600, per_record=1)]
    read = [Record(EXAMPLES.name, 0, offset, 0, b"0", value) for offset, value in enumerate(log)]
    steps = []
    for first in range(0, len(read), 100):
        (chunk,) = model.record_encoder.records(read[first : first + 100])
        for a, b in model.steps(chunk):
            model.learn_records(chunk, a, b)
            steps.append(b - a)
    assert sum(steps) == len(read)
    assert len(steps) < len(read) / 8
    assert model.examples == 1_800
