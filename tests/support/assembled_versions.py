"""What a published version amounts to: its base and deltas put together, beside the model's own state."""

from learner.training.model import Model
from stream.snapshots.manifest import Manifest
from stream.snapshots.memory_store import MemoryStore
from stream.snapshots.store import fetch

Served = tuple[dict[int, float], dict[int, bytes], dict[int, bytes], list[bytes]]


def assembled(store: MemoryStore, manifest: Manifest) -> Served:
    """wide weights, statistics rows and embedding rows by key, and dense arrays of a version."""
    wide: dict[int, float] = {}
    statistics: dict[int, bytes] = {}
    vectors: dict[int, bytes] = {}
    dense: list[bytes] = []
    for digests in manifest.parts["wide"].payloads():
        content = fetch(store, digests)
        wide.update(zip(content["keys"].tolist(), content["weights"].tolist(), strict=True))
    for digests in manifest.parts["statistics"].payloads():
        statistics.update((int(row[0]), row.tobytes()) for row in fetch(store, digests)["rows"])
    for digests in manifest.parts["deep"].payloads():
        content = fetch(store, digests)
        vectors.update((int(k), v.tobytes()) for k, v in zip(content["keys"], content["vectors"], strict=True))
        for key in content.get("dead", ()):
            vectors.pop(int(key), None)
        dense = [content[n].tobytes() for n in sorted(content) if n.startswith(("weight", "bias", "bound"))]
    return {k: w for k, w in wide.items() if w}, statistics, vectors, dense


def learned_state(model: Model) -> Served:
    """The same of the learner's own state."""
    assert model.deep is not None
    rows = model.wide.table.rows()
    weights = model.wide.weights(rows)
    vocabulary = model.deep.vocabulary
    layers = model.deep.layers()
    dense = {f"weight_{i}": w.tobytes() for i, (w, _) in enumerate(layers)}
    dense |= {f"bias_{i}": b.tobytes() for i, (_, b) in enumerate(layers)}
    dense["boundaries"] = model.deep.boundaries.tobytes()
    return (
        {int(k): float(w) for k, w in zip(rows[:, 0], weights, strict=True) if w},
        {int(row[0]): row.tobytes() for row in model.statistics.rows()},
        {int(vocabulary.keys[r]): vocabulary.vectors[r].tobytes() for r in vocabulary.live()},
        [dense[n] for n in sorted(dense)],
    )
