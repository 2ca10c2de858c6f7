"""Erasing a user from the model: what follows from the id goes, at an index of the log; all others' rows stay."""

import numpy as np
import pytest

from learner.checkpoints.checkpoint import restore, take
from learner.training.erasing import erase_user
from learner.training.frozen_model import frozen_arrays
from learner.training.model import Model
from stream.events.types import Erase, Examples, TrainingEvent
from stream.features.encoder import one_page
from stream.features.page_features import id_of
from stream.spec.spec import Spec
from stream.tables.dtypes import U64
from stream.tables.hash_table import HashTable
from tests.support.changing_world import RETRIEVAL
from tests.support.held_out_models import holding_spec, judge_often
from tests.support.learned_models import assert_same
from tests.support.learner_world import records, small_spec

USER = "u3"
CROSSED = '["user.history", "item.id"], ["user.id", "item.tags"], ["item.id", "user.id"],'
LIKENESS = 'alike = { kind = "likeness", by = ["user.id", "item.id"], neighbours = 5 }'


@pytest.fixture(scope="module")
def spec() -> Spec:
    """Crosses of the user's id in either order, and a memory of the user's items."""
    alike = 'alike = { kind = "affinity", of = "item.id", to = "user.history" }'
    return small_spec(**{'["user.history", "item.id"],': CROSSED, alike: LIKENESS})


@pytest.fixture(scope="module")
def log(spec: Spec) -> list[list[Examples]]:
    """Some pages of twenty users."""
    return records(spec, 240)


def learned(spec: Spec, log: list[list[Examples]]) -> Model:
    """A model that learned the log."""
    model = Model(spec)
    for offset, record in enumerate(log):
        model.learn(record, offset)
    return model


def pages_of(log: list[list[Examples]], user: str) -> list[U64]:
    """The user's pages, as words."""
    return [np.frombuffer(one.page.features, np.uint64) for some in log for one in some if one.page.user == user]


def rows(table: HashTable) -> dict[int, bytes]:
    """Every row by its key."""
    return {int(row[0]): row[1:].tobytes() for row in table.rows()}


def own_keys(model: Model, pages: list[U64]) -> tuple[set[int], set[int]]:
    """The keys of a user's pages whose columns have the user's id: wide, and statistics."""
    wide = {int(key) for words in pages for key in model.encoder.wide_keys(one_page(words)).keys}
    crosses = {1 + c for c, name in enumerate(model.encoder.cross_names) if "user.id" in name}
    of = [name for name, one in model.spec.statistics.items() if "user.id" in one.by]
    kinds = [k for k, name in enumerate(model.spec.statistics) if name in of]
    found = set()
    for words in pages:
        keys = model.statistics.program.keys_of(one_page(words))
        count = len(model.spec.statistics)
        for k in kinds:
            for item in range(int(words[1])):
                begin, end = keys.offsets[item * count + k : item * count + k + 2]
                found |= {int(key) for key in keys.keys[begin:end]}
    return {key for key in wide if key & 255 in crosses}, found


def test_rows_of_the_user_go_and_all_others_stay(spec: Spec, log: list[list[Examples]]) -> None:
    """Wide weights, statistics, memory, embedding row and recent pages; other users' rows keep every bit."""
    model = learned(spec, log)
    pages, deep = pages_of(log, USER), model.deep
    assert deep is not None
    tables = {"wide": model.wide.table, "statistics": model.statistics.table, "memories": model.statistics.likenesses}
    before = {name: rows(table) for name, table in tables.items()}
    user_id = id_of(model.layout.seeds["user.id"], USER)
    assert deep.vocabulary.rows_of(np.array([user_id], np.uint64))[0]
    wide, statistics = own_keys(model, pages)
    assert wide & before["wide"].keys()
    assert statistics & before["statistics"].keys()
    model.learn([Erase(USER, 1)], len(log))
    after = {name: rows(table) for name, table in tables.items()}
    assert not wide & after["wide"].keys()
    assert not statistics & after["statistics"].keys()
    assert len(before["memories"]) > len(after["memories"])
    for name, left in after.items():
        assert left == {key: row for key, row in before[name].items() if key in left}
    others = [own_keys(model, pages_of(log, f"u{k}")) for k in range(20) if f"u{k}" != USER]
    for kept_wide, kept_statistics in others:
        assert kept_wide & before["wide"].keys() <= after["wide"].keys()
        assert kept_statistics & before["statistics"].keys() <= after["statistics"].keys()
    assert not deep.vocabulary.rows_of(np.array([user_id], np.uint64))[0]
    assert not any((np.frombuffer(page, np.uint64) == user_id).any() for page in model.recent_pages)
    assert len(model.recent_pages)


@pytest.mark.parametrize("stop", [30, 41, 60])
def test_a_restart_before_or_after_it_ends_in_the_same_bits(spec: Spec, log: list[list[Examples]], stop: int) -> None:
    """It is applied at its index: what is learned later doesn't depend on where the process was killed."""
    events: list[list[TrainingEvent]] = [[*some] for some in log]
    events[40].append(Erase(USER, 1))
    events.insert(70, [Erase("u5", 1), Erase("nobody", 1)])
    unbroken, stopped = Model(spec), Model(spec)
    for offset, record in enumerate(events):
        unbroken.learn(record, offset)
        stopped.learn(record, offset)
        if offset == stop:
            stopped = restore(spec, take(stopped, 0, 0, 0))
    assert_same(stopped, unbroken)
    assert len(unbroken.erased) == 3


def test_held_out_pages_and_the_anchor_forget_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that wait for labels, and what the anchor predicts by, be it complete or being copied; bits are the same
    after a restart in between."""
    judge_often(monkeypatch)
    spec = holding_spec(0.2, **{'["user.history", "item.id"],': CROSSED})
    log = records(spec, 600)
    model = Model(spec)
    user_id = np.uint64(id_of(model.layout.seeds["user.id"], USER))
    stopped, dropped = Model(spec), 0
    for offset, record in enumerate(log):
        for one in (model, stopped):
            one.learn(record, offset)
        held_out = model.held_out
        if offset % 40 == 39 or (held_out._copy and not dropped):
            wide, _ = own_keys(model, pages_of(log, USER))
            waiting, others = [[page for page in held_out.pages._waiting.values() if (user_id in page.words) == is_own]
                               for is_own in (True, False)]  # fmt: skip
            stopped = restore(spec, take(stopped, 0, 0, 0))
            removed = erase_user(model, USER)
            assert removed == erase_user(stopped, USER)
            dropped += bool(held_out._copy)
            assert [*held_out.pages._waiting.values()] == others
            assert removed.pages >= len(waiting)
            frozen = [frozen_arrays(held_out.anchor)] if held_out.anchor else []
            for arrays in [*frozen, *([held_out._copy.arrays()] if held_out._copy else [])]:
                assert not wide & set(arrays["wide_keys"].tolist())
                assert user_id not in arrays["vectors_keys"]
            assert_same(restore(spec, take(model, 0, 0, 0)), model)
    assert model.held_out.anchor
    assert dropped, "an anchor was being copied once"
    assert_same(stopped, model)


def test_a_roll_back_does_not_bring_a_user_back(spec: Spec, log: list[list[Examples]]) -> None:
    """Who was erased after the checkpoint is erased from what it has."""
    model = learned(spec, log)
    earlier = restore(spec, take(model, 0, 0, 0))
    model.learn([Erase(USER, 1)], len(log))
    wide, _ = own_keys(model, pages_of(log, USER))
    assert wide & rows(earlier.wide.table).keys()
    model.return_to(earlier)
    assert not wide & rows(model.wide.table).keys()
    assert len(model.erased) == 1


def test_what_retrieval_remembers_of_a_user_goes() -> None:
    """The user's last installs; other users' memories and items' lists and vectors stay as they are."""
    spec = small_spec(**{"[label]": f"{RETRIEVAL}\n[label]"})
    log = records(spec, 240)
    model = learned(spec, log)
    assert model.retrieval is not None
    before, items = rows(model.retrieval.memories), model.retrieval.values.tobytes()
    model.learn([Erase(USER, 1)], len(log))
    after = rows(model.retrieval.memories)
    assert len(before) - len(after) == 1
    assert after.items() <= before.items()
    assert model.retrieval.values.tobytes() == items
    assert_same(restore(spec, take(model, 0, 0, 0)), model)
    assert model.retrieval.erase(np.uint64(id_of(model.layout.seeds["user.id"], USER))) == 0
