"""Looking into versions and comparing them; `thalweg snapshots`, on a real Redis."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
import redis
from rich.console import Console
from typer.testing import CliRunner

from stream.runtime.settings import Settings
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.redis_store import RedisStore
from stream.spec.spec_file import load_spec
from tests.support.random_models import ToyModel, some_spec
from thalweg.cli.main import app
from thalweg.kernels import miniature
from thalweg.room_kernels import SPEC
from thalweg.stack.stack import Stack
from thalweg.versions.snapshot_tables import metrics_table, origin_table
from thalweg.versions.version_diff import changes, load_tables


def toy() -> ToyModel:
    """A small model with all parts."""
    return ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 5)


def test_the_layers_of_a_version_are_merged() -> None:
    """Base, merged and small deltas give just what the model held: live weights, rows, vectors."""
    model, store = toy(), MemoryStore("m")
    for how in ("base", "delta", "merged", "delta", "delta"):
        manifest = model.publish(store, how)
        tables = load_tables(store, manifest)
        wide = dict(zip(tables.rows["wide"].keys.tolist(), tables.rows["wide"].vectors[:, 0].tolist(), strict=True))
        assert wide == {key: weight for key, weight in model.wide.items() if weight}
        assert tables.rows["statistics"].keys.tolist() == sorted(model.statistics.rows()[:, 0].tolist())
        vectors = {k: v.astype(np.float32).tobytes() for k, v in zip(*vars(tables.rows["deep"]).values(), strict=True)}
        assert vectors == {key: vector.tobytes() for key, vector in model.vectors.items()}
        model.learn()


def test_rows_for_retrieval_are_compared_by_installs() -> None:
    """Of a learner that keeps lists and vectors: each item is a row, whose size is the item's installs."""
    store, _ = miniature(load_spec(SPEC), 96)
    first, *_, last = (load_tables(store, store.manifest(version)) for version in sorted(store.versions()))
    (change,) = [change for change in changes(first, last) if change.part == "retrieval"]
    rows = last.rows["retrieval"]
    assert change.after == len(rows.keys) > 0
    assert rows.vectors.shape[1] == 1
    assert rows.vectors.max() >= 1


def test_changes_are_those_of_the_model() -> None:
    """New, gone and moved weights are counted, and the largest changes come first with their values."""
    model, store = toy(), MemoryStore("m")
    before = load_tables(store, model.publish(store, "base"))
    held = {key: weight for key, weight in model.wide.items() if weight}
    model.learn()
    now = {key: weight for key, weight in model.wide.items() if weight}
    after = load_tables(store, model.publish(store))
    wide = next(change for change in changes(before, after) if change.part == "wide")
    assert (wide.before, wide.after) == (len(held), len(now))
    assert wide.new == len(now.keys() - held.keys())
    assert wide.removed == len(held.keys() - now.keys())
    assert wide.changed == sum(held[key] != now[key] for key in held.keys() & now.keys())
    steps = {key: now.get(key, 0.0) - held.get(key, 0.0) for key in held.keys() | now.keys()}
    assert [size for _, size, _, _ in wide.top] == sorted(map(abs, steps.values()), reverse=True)[: len(wide.top)]
    assert all(abs(then - was) == size == abs(steps[key]) for key, size, was, then in wide.top)
    assert wide.norm == pytest.approx(np.linalg.norm(list(steps.values())))


@pytest.fixture
def store(
    stack: Stack, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[RedisStore, Path]]:
    """A Redis with five versions, and the spec file that names them; commands find both."""
    for name in [name for name in os.environ if name.startswith("THALWEG_")]:
        monkeypatch.delenv(name)
    settings = {"LOCAL": str(tmp_path), "REDIS": stack.redis, "KAFKA": stack.kafka, "TOPIC_PREFIX": topic_prefix}
    for name, value in settings.items():
        monkeypatch.setenv(f"THALWEG_{name}", value)
    monkeypatch.setenv("THALWEG_MODEL", "m")
    with closing(RedisStore(Settings.load(), "m")) as store:
        model = toy()
        for _ in range(5):
            model.publish(store)
            model.learn()
        yield store, tmp_path
    with redis.Redis.from_url(stack.redis) as client:
        for key in client.scan_iter(f"{{{topic_prefix}*"):
            client.delete(key)


def ran(*words: str, code: int = 0) -> str:
    """What `thalweg snapshots …` prints."""
    result = CliRunner().invoke(app, ["snapshots", *words])
    assert result.exit_code == code, result.output
    return result.output


def test_versions_are_shown(store: tuple[RedisStore, Path]) -> None:
    """`ls` marks head and pin, `show` tells a version's parts, `diff` what moved; figures go to --json."""
    _, folder = store
    ran("pin", "2")
    listed = ran("ls", "--json", str(folder / "ls.json"))
    assert json.loads((folder / "ls.json").read_text()) == {"versions": 5, "head": 5, "pinned": 2, "damaged": 0}
    assert [line.split()[1] for line in listed.splitlines() if "head" in line or "pinned" in line] == ["2", "5"]
    assert "statistics" in ran("show", "3")
    said = ran("diff", "2", "5", "--json", str(folder / "diff.json"))
    assert "wide weights that moved most" in said
    assert json.loads((folder / "diff.json").read_text())["wide_norm"] > 0
    unknown = " ".join(ran("show", "77", code=1).split())
    assert "version 77 of m isn't kept (any more): `thalweg snapshots ls` lists those that are" in unknown


def test_examples_are_told_once(store: tuple[RedisStore, Path]) -> None:
    """A learner's metrics count examples, too; `diff` and `show` tell that figure once."""
    redis_store, folder = store
    published = redis_store.manifest(5)
    for number in (6, 7):
        metrics = {"examples": 1_000.0 * number, "auc": 0.5}
        changes = {"version": number, "parent": number - 1, "examples": number, "metrics": metrics}
        redis_store.publish(msgspec.structs.replace(published, **changes))
    told = [line for line in ran("diff", "6", "7").splitlines() if "examples" in line]
    assert len(told) == 1
    assert [cell.strip() for cell in told[0].split("│")[2:5]] == ["6", "7", "+1"]
    shown = ran("show", "7", "--json", str(folder / "show.json"))
    assert len([line for line in shown.splitlines() if "examples" in line and "offsets" not in line]) == 1
    assert json.loads((folder / "show.json").read_text())["examples"] == 7


def test_a_damaged_manifest_is_named(store: tuple[RedisStore, Path], stack: Stack) -> None:
    """`ls` lists the others and names it, so do `show`, `diff` and `verify`."""
    redis_store, folder = store
    with redis.Redis.from_url(stack.redis) as client:
        client.setrange(f"{redis_store.prefix}:manifest:3", 40, b"\x07\x09")
    listed = ran("ls", "--json", str(folder / "ls.json"))
    named = "version 3 of m is damaged: a manifest's bytes don't match its digest"
    assert named in listed
    assert [line.split()[1] for line in listed.splitlines() if "wide" in line] == ["1", "2", "4", "5"]
    assert json.loads((folder / "ls.json").read_text()) == {"versions": 5, "head": 5, "pinned": 0, "damaged": 1}
    for words in (("show", "3"), ("diff", "1", "3"), ("verify",)):
        assert named in " ".join(ran(*words, code=1).split())


def test_a_person_decides_what_is_served(store: tuple[RedisStore, Path]) -> None:
    """`pin`, `rollback` and `unpin` change the decision that rankers read; nothing older than the oldest can be had."""
    redis_store, _ = store
    ran("rollback")
    assert redis_store.decision().version == 4
    ran("rollback")
    assert redis_store.decision().version == 3
    ran("pin", "1")
    assert "nothing older" in ran("rollback", code=1)
    assert redis_store.decision().version == 1
    assert "rankers serve version 5" in ran("unpin")
    assert redis_store.decision().version == 0


def test_what_is_garbled_hides_no_version_and_can_be_decided_anew(store: tuple[RedisStore, Path], stack: Stack) -> None:
    """As its error says: `ls` lists what is there, and `unpin` and `pin` put a garbled decision right."""
    redis_store, _ = store
    with redis.Redis.from_url(stack.redis) as client:
        for mend in (["unpin"], ["pin", "3"]):
            client.hset(redis_store.prefix + ":decision", "version", "x")
            listed = ran("ls")
            assert "pin or unpin again" in listed
            assert [line.split()[1] for line in listed.splitlines() if "head" in line] == ["5"]
            ran(*mend)
            assert redis_store.decision().version == int(mend[-1] if mend[1:] else 0)
        client.hset(redis_store.prefix + ":head", "version", "x")
        assert "head of m is garbled" in ran("ls")
        assert ran("unpin").endswith("rankers serve what is published next\n")
        client.zadd(redis_store.prefix + ":versions", {"abc": 9})
        assert "contains what no learner wrote" in ran("ls", code=1)


def test_where_nothing_is_published_its_said(store: tuple[RedisStore, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which model, so that a wrong name is seen."""
    monkeypatch.setenv("THALWEG_MODEL", "another")
    assert "no version of another is kept" in ran("ls")
    assert "nothing of another is published yet" in ran("rollback", code=1)


def test_verify_finds_one_wrong_bit(store: tuple[RedisStore, Path], stack: Stack) -> None:
    """Versions that are whole pass; one changed byte of one blob is found, named, and exit code 1."""
    redis_store, _ = store
    assert "0 wrong" in ran("verify")
    digest = redis_store.manifest(5).parts["deep"].deltas[-1][0]
    with redis.Redis.from_url(stack.redis) as client:
        client.setrange(f"{redis_store.prefix}:blob:{digest}", 40, b"\x07\x09")
    said = ran("verify", code=1)
    assert digest in said
    assert "version 5, deep" in said


def test_metrics_of_slices_are_named_whole() -> None:
    """`auc[user.gender=F]` isn't markup."""
    one = toy().publish(MemoryStore("m"), "base", metrics={"auc[user.gender=F]": 0.7})
    for table in (origin_table(one), metrics_table(one, one)):
        text = StringIO()
        Console(file=text, width=120).print(table)
        assert "auc[user.gender=F]" in text.getvalue()
