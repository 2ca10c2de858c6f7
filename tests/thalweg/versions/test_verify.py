"""What `thalweg snapshots verify` calls wrong, and what it doesn't."""

from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from ranker.versions.version_loader import load_version
from stream.runtime.errors import BadSnapshot
from stream.snapshots.manifest import PartVersion
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.payload import Array, digests_of, pack, split
from stream.snapshots.store import fetch
from tests.support.random_models import ToyModel, some_spec
from thalweg.versions.verify import Verifier

Change = Callable[[dict[str, Array]], None]


def toy() -> ToyModel:
    """A small model with all parts."""
    return ToyModel(some_spec(np.random.default_rng(5), ["wide", "deep"]), 5)


class LiveStore(MemoryStore):
    """Whenever a blob is asked for, the learner has published one more version, and the oldest have gone."""

    def __init__(self, model: str, keep: int) -> None:
        super().__init__(model)
        self.keep = keep
        self.asked = Counter[str]()
        self.meanwhile: Callable[[], object] | None = None

    def get_blob(self, digest: str) -> bytes:
        """See SnapshotStore."""
        self.asked[digest] += 1
        if self.meanwhile:
            self.meanwhile()
            self.retain(self.keep)
        return super().get_blob(digest)


def looked_at(store: MemoryStore) -> Verifier:
    """A verifier that has looked at all that the store says it keeps."""
    verifier = Verifier(store)
    for number in store.versions():
        verifier.verify(number)
    return verifier


@pytest.mark.parametrize("keep", [2, 8])
def test_a_store_that_lives_has_no_faults(keep: int) -> None:
    """Versions that are dropped while others are read are counted apart; none of them is wrong."""
    model, store = toy(), LiveStore("m", keep)
    for _ in range(8):
        model.publish(store, "base")
        model.learn()
    store.meanwhile = lambda: model.publish(store, "base")
    verifier = looked_at(store)
    assert list(verifier.faults()) == []
    assert 0 < verifier.collected <= 8


def test_what_versions_share_is_read_once() -> None:
    """The base of twenty versions is read once, be it sound or damaged; then one line says who names it."""
    model, store = toy(), LiveStore("m", 20)
    for _ in range(20):
        model.publish(store)
        model.learn()
    verifier = looked_at(store)
    assert list(verifier.faults()) == []
    assert set(store.asked.values()) == {1}
    assert verifier.blobs == len(store.asked)
    digest = model.parts["wide"].base[0]
    store._blobs[digest] = store._blobs[digest][:-1] + b"\xff"
    store.asked.clear()
    faults = list(looked_at(store).faults())
    assert set(store.asked.values()) == {1}
    assert len(faults) == 1
    assert f"version 1, wide: blob {digest}" in faults[0]
    assert "20 versions name it, up to 20" in faults[0]


def test_a_kept_version_without_a_blob() -> None:
    """A blob that's missing though its version is kept is a fault."""
    model, store = toy(), LiveStore("m", 3)
    for _ in range(3):
        model.publish(store, "base")
        model.learn()
    del store._blobs[store.manifest(3).parts["deep"].base[0]]
    (fault,) = looked_at(store).faults()
    assert fault.startswith("version 3, deep: ")


def fewer_weights(content: dict[str, Array]) -> None:
    """A weight is missing."""
    content["weights"] = content["weights"][:-1]


def key_of_nothing(content: dict[str, Array]) -> None:
    """A row has no key."""
    content["rows"] = np.array(content["rows"])
    content["rows"][0, 0] = 0


def key_twice(content: dict[str, Array]) -> None:
    """A row's key is another's, too."""
    content["keys"] = np.array(content["keys"])
    content["keys"][-1] = content["keys"][0]


def narrower(content: dict[str, Array]) -> None:
    """Vectors lack a number."""
    content["vectors"] = content["vectors"][:, :-1]


def no_layers(content: dict[str, Array]) -> None:
    """A layer is missing."""
    del content["weight_0"]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("wide", fewer_weights),
        ("wide", key_twice),
        ("statistics", key_of_nothing),
        ("deep", narrower),
        ("deep", no_layers),
    ],
)
def test_contents_that_no_ranker_takes(part: str, change: Change) -> None:
    """Arrays under their right digest, but of other shapes than the spec's: what the ranker refuses is found."""
    model, store = toy(), MemoryStore("m")
    model.publish(store, "base")
    content = dict(fetch(store, model.parts[part].base))
    change(content)
    raw = pack(content)
    store.put_blobs(split(raw))
    model.publish_parts(store, {**model.parts, part: PartVersion(digests_of(raw))})
    with pytest.raises(BadSnapshot) as refused:
        load_version(store, "m", 2)
    (fault,) = looked_at(store).faults()
    assert fault == f"version 2, {part}: {refused.value}"


@pytest.mark.parametrize(
    ("change", "why"),
    [({"fingerprint": "other"}, "of spec other"), ({"spec": b"{"}, "can't be read"), ({"parts": {}}, "lacks deep")],
)
def test_manifests_that_no_ranker_takes(change: dict[str, object], why: str) -> None:
    """A manifest whose spec or parts don't fit is a fault."""
    model, store = toy(), MemoryStore("m")
    manifest = model.publish(store, "base")
    wrong = msgspec.structs.replace(manifest, version=2, parent=1, **change)
    store.publish(wrong)
    with pytest.raises(BadSnapshot):
        load_version(store, "m", 2)
    (fault,) = looked_at(store).faults()
    assert fault.startswith("version 2: ")
    assert why in fault
