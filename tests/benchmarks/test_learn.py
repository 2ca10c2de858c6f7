"""What the learner's benchmark feeds itself and its peers, and that its rates are of examples that were learned."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.learn import measured, ratios_of
from benchmarks.learn_backtest import PAGE_ITEMS, backtest_ex_s, ours, source
from benchmarks.learn_kafka import filled, learn_from_kafka, learn_until, trickle_ms
from benchmarks.learn_peers import MicroBatches, WideAndDeep, learn
from benchmarks.learn_world import ITEMS, USERS, labelled_pages, records_of, world_spec
from benchmarks.wide import columns_of
from stream.events.types import Impression, Install, Item, User
from stream.runtime.settings import Settings
from thalweg.stack.stack import Stack


@pytest.mark.parametrize("name", ["shop", "movielens"])
def test_torch_reads_the_same_examples_in_the_same_order(name: str) -> None:
    """Micro-batches are cut as the learner cuts them, and a row stands for one key or id, wherever it occurs."""
    spec = world_spec(name)
    pages = list(labelled_pages(spec, 8, 10))
    batches = MicroBatches(spec, records_of(pages, 4))
    found = list(batches)
    assert [len(one.labels) for one in found] == [8, 8, 8, 8, 8] * 2
    labels = torch.cat([one.labels for one in found]).tolist()
    assert labels == list(chain.from_iterable(page.labels for page in pages))
    keys = [batches.encoder.wide_keys(columns_of(raw, batches.layout)[0]).keys for raw in batches.records]
    pairs = set(zip(np.concatenate(keys).tolist(), np.concatenate(batches.rows.wide).tolist(), strict=True))
    assert len(pairs) == batches.rows.wide_count == len(np.unique(np.concatenate(keys)))
    lists = len(batches.encoder.deep_lists)
    for one in found:
        assert len(one.wide_starts) == len(one.labels) == len(one.x)
        assert len(one.deep_starts) == lists * len(one.labels)
        assert int(one.wide_starts[-1]) < len(one.wide)
        assert one.shares is None or len(one.shares) == len(one.deep)


def test_torch_learns_the_same_from_sparse_and_dense_gradients() -> None:
    """So the better of the two is a fair choice; and it does learn."""
    batches = MicroBatches(world_spec("shop"), records_of(list(labelled_pages(world_spec("shop"), 16, 10)), 4))
    logits = list[torch.Tensor]()
    for sparse in (True, False):
        torch.manual_seed(3)
        model = WideAndDeep(batches, sparse=sparse)
        before = torch.cat([model(one) for one in batches]).detach()
        assert learn(model, batches, sparse=sparse) > 0
        logits.append(torch.cat([model(one) for one in batches]).detach())
        assert float(logits[-1].mean()) < float(before.mean()) - 0.5  # labels are rare
    assert torch.allclose(logits[0], logits[1], atol=1e-3)


def test_the_backtests_world_is_labelled_whole() -> None:
    """Items and users first, then pages in order of time; every install is of a page before it; all is learned."""
    spec, pages = world_spec("shop"), 60
    events = list(source(spec, pages))
    assert [type(event) for event in events[: ITEMS + USERS]] == [Item] * ITEMS + [User] * USERS
    played = [event for event in events if isinstance(event, Impression | Install)]
    times = [event.time_ms for event in played]
    assert times == sorted(times)
    shown = {page.request_id: page for page in played if isinstance(page, Impression)}
    installs = [event for event in played if isinstance(event, Install)]
    assert len(shown) == pages
    assert installs
    for install in installs:
        assert install.item in shown[install.request_id].items
        assert install.user == shown[install.request_id].user
    entrant = ours(spec)
    assert backtest_ex_s(spec, entrant, events, 1) > 0
    assert entrant.model.examples == pages * PAGE_ITEMS
    life = entrant.model.progress.lifetime()
    assert round(life.base_rate * life.examples) == len(installs)


def test_what_is_timed_was_learned(stack: Stack, tmp_path: Path) -> None:
    """All records of a topic, whatever their size, by the service's learner; a trickle leaves out its first second."""
    house = Settings(kafka=stack.kafka, redis=stack.redis, local=tmp_path)
    spec = world_spec("shop")
    pages = list(labelled_pages(spec, 40, 10))
    for pack in (1, 8):
        settings = filled(house, pages, pack)
        assert learn_from_kafka(settings, spec) > 0
        offsets = list[int]()
        model = learn_until(settings, spec, 40 // pack, lambda learner: offsets.append(learner.offset))  # noqa: B023
        assert model.examples == 400
        assert offsets[-1] == 40 // pack
    waits = trickle_ms(house, spec, pages, 30)
    assert len(waits) == 10
    assert waits == sorted(waits)
    assert waits[0] > 0


def test_torch_is_its_better_half() -> None:
    """Repeats stay paired in ratios: each is of figures measured in the same turn."""
    rates = {"torch_sparse_ex_s": [3.0, 1.0, 2.0], "torch_dense_ex_s": [1.0, 1.5, 9.0], "ours": [6.0, 8.0, 4.0]}
    runs = measured([], {name: iter(values).__next__ for name, values in rates.items()}, 3)
    assert runs == rates | {"torch_ex_s": rates["torch_sparse_ex_s"]}
    assert ratios_of(runs, "ours", "torch_ex_s") == [2.0, 8.0, 2.0]
