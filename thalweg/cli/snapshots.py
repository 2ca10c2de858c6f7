"""`thalweg snapshots`: look at published versions, compare them, decide which one is served."""

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from thalweg.cli.options import JsonFile, ModelSpec, kept_settings, open_store, write_json

if TYPE_CHECKING:
    from stream.runtime.settings import Settings
    from stream.snapshots.manifest import Manifest
    from stream.snapshots.redis_store import RedisStore
    from stream.tables.hash_table import U64

snapshots = typer.Typer(no_args_is_help=True, help="Inspect, compare, pin and verify published versions.")
Version = Annotated[int, typer.Argument(min=1, help="A version's number, as `thalweg snapshots ls` lists it.")]


@snapshots.command("ls")
def list_versions(
    spec: ModelSpec = None,
    last: Annotated[int, typer.Option(min=1, help="How many, newest last.")] = 20,
    json_file: JsonFile = None,
) -> None:
    """List the versions that are kept, the head and the pin.

    With age, examples, metrics and contents.
    """
    from stream.runtime.errors import BadSnapshot
    from thalweg.versions.snapshot_tables import versions_table
    from thalweg.views.show import printed

    manifests: list[Manifest] = []
    damaged: dict[int, str] = {}
    with open_store(kept_settings(), spec) as store:
        versions = store.versions()
        head, pinned = _head_of(store), _pinned_in(store)
        for version in versions[-last:]:
            try:
                manifests.append(store.manifest(version))
            except BadSnapshot as bad:
                damaged[version] = str(bad)
        kept = store.versions() if damaged else []
    damaged = {version: why for version, why in damaged.items() if version in kept}  # else it was dropped meanwhile
    if not versions:
        print(
            f"no version of {store.model} is kept here: a learner publishes them; --spec or THALWEG_MODEL name another"
        )
    printed(versions_table(manifests, head, pinned))
    for why in damaged.values():
        print(why)
    figures = {"versions": len(versions), "head": head, "pinned": pinned}
    write_json(json_file, {**figures, "damaged": len(damaged)})


@snapshots.command()
def show(version: Version, spec: ModelSpec = None, json_file: JsonFile = None) -> None:
    """Show one version: its origin, metrics, parts and sizes."""
    from thalweg.versions.snapshot_tables import facts_table, metrics_of, parts_table
    from thalweg.versions.version_diff import lay, sizes
    from thalweg.views.show import printed

    with open_store(kept_settings(), spec) as store:
        manifest = store.manifest(version)
        laid, bytes_of = lay(store, manifest), sizes(store, manifest)
        printed(facts_table(manifest))
        printed(parts_table(manifest, laid, bytes_of))
    rows = {f"{part}_rows": len(held.keys) for part, held in laid.rows.items()}
    total = {f"{part}_bytes": sum(found) for part, found in bytes_of.items()}
    write_json(json_file, {"version": version, "examples": manifest.examples, **metrics_of(manifest), **rows, **total})


@snapshots.command()
def diff(
    before: Version,
    after: Version,
    spec: ModelSpec = None,
    top: Annotated[int, typer.Option(min=0, max=20, help="How many of the largest changes are named.")] = 10,
    json_file: JsonFile = None,
) -> None:
    """Compare two versions: metrics, rows, layers and weights.

    With the norms of layers, and the weights that moved most.
    """
    from thalweg.versions.snapshot_tables import layers_table, metrics_table, rows_table, weights_table
    from thalweg.versions.version_diff import changes, lay
    from thalweg.views.show import printed

    settings = kept_settings()
    with open_store(settings, spec) as store:
        old, new = lay(store, store.manifest(before)), lay(store, store.manifest(after))
    found = list(changes(old, new))
    printed(metrics_table(old.manifest, new.manifest))
    printed(rows_table(found))
    printed(layers_table(old, new))
    wide = next((change for change in found if change.part == "wide"), None)
    if top and wide and wide.top:
        import numpy as np

        keys = np.array([key for key, *_ in wide.top[:top]], np.uint64)
        printed(weights_table(wide.top[:top], _names(settings, new.manifest, keys)))
    told = ("new", "gone", "moved", "norm")
    write_json(json_file, {f"{one.part}_{what}": getattr(one, what) for one in found for what in told})


@snapshots.command()
def pin(version: Version, spec: ModelSpec = None) -> None:
    """Serve this version until `unpin`.

    Whatever is published from now on. Every ranker obeys, after a restart and after Redis was wiped too. The learner
    learns and publishes on.
    """
    with open_store(kept_settings(), spec) as store:
        store.pin(version)
    print(f"version {version} is pinned: rankers serve it from now on; `thalweg snapshots unpin` lets go of it")


@snapshots.command()
def unpin(spec: ModelSpec = None) -> None:
    """Serve the newest version again."""
    with open_store(kept_settings(), spec) as store:
        pinned = _pinned_in(store)
        store.pin(0)
        head = _head_of(store)
    newest = f"version {head}" if head else "what is published next"
    print(f"{f'version {pinned} is let go of' if pinned else 'nothing was pinned'}; rankers serve {newest}")


@snapshots.command()
def rollback(spec: ModelSpec = None) -> None:
    """Pin the version before the one that is served now.

    Run again, it goes back one more.
    """
    from stream.runtime.errors import BadSnapshot

    with open_store(kept_settings(), spec) as store:
        served = store.decision().version or _head_of(store)
        if not served:
            raise BadSnapshot(f"nothing of {store.model} is published yet")
        older = [version for version in store.versions() if version < served]
        if not older:
            raise BadSnapshot(f"nothing older than version {served} is kept: `thalweg snapshots ls` lists what is")
        store.pin(older[-1])
    print(f"version {older[-1]} is pinned instead of {served}; `thalweg snapshots unpin` goes back to the newest")


@snapshots.command()
def verify(spec: ModelSpec = None, json_file: JsonFile = None) -> None:
    """Verify every content of every version that is kept.

    Digests, shapes and numbers. Exit code 1 if one is wrong.
    """
    from rich.progress import track

    from thalweg.versions.verify import Verifier

    with open_store(kept_settings(), spec) as store:
        versions, verifier = store.versions(), Verifier(store)
        for version in track(versions, "verifying", transient=True):
            verifier.look(version)
    faults = list(verifier.faults())
    for line in faults:
        print(line)
    looked_at = len(versions) - verifier.collected
    print(f"{looked_at} versions, {verifier.contents} contents in {verifier.blobs} blobs, {len(faults)} wrong")
    if verifier.collected:
        print(f"{verifier.collected} versions were too old to be kept any longer before they were read")
    write_json(json_file, {"versions": looked_at, "contents": verifier.contents, "wrong": len(faults)})
    if faults:
        raise typer.Exit(1)


def _pinned_in(store: "RedisStore") -> int:
    """The pinned version; 0: none."""
    return _or_told(lambda: store.decision().version)


def _head_of(store: "RedisStore") -> int:
    """The version that is the head; 0: none."""
    return _or_told(lambda: head.version if (head := store.head()) else 0)


def _or_told(read: Callable[[], int]) -> int:
    """What is garbled is told, and counts as none: it's mended by a decision, or the next version."""
    from stream.runtime.errors import BadSnapshot

    try:
        return read()
    except BadSnapshot as bad:
        print(bad)
        return 0


def _names(settings: "Settings", manifest: "Manifest", keys: "U64") -> dict[int, str]:
    """Names of wide keys; without a log (looking at Redis alone) only those of their crosses."""
    from stream.features.encoder import Encoder
    from stream.features.page_features import Layout
    from stream.log.kafka_log import KafkaLog
    from stream.runtime.errors import LogError, SettingsError
    from stream.spec.spec_file import decode_spec
    from thalweg.views.names import Names

    spec = decode_spec(manifest.spec)
    layout = Layout(spec)
    try:
        with closing(KafkaLog(settings)) as log:
            names = Names.read(log, layout)
    except (LogError, SettingsError) as bad:
        print(f"values aren't named: {bad}")
        names = Names(layout)
    return names.of_keys(Encoder(spec, layout), keys)
