"""`thalweg snapshots`: inspect published versions, compare them, decide which one is served."""

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from thalweg.cli.options import JsonFile, ModelSpec, inspect_settings, open_store, write_json

if TYPE_CHECKING:
    from stream.runtime.settings import Settings
    from stream.snapshots.manifest import Manifest
    from stream.snapshots.redis_store import RedisStore
    from stream.tables.dtypes import U64

snapshots = typer.Typer(no_args_is_help=True, help="Inspect, compare, pin and verify published versions.")
Version = Annotated[int, typer.Argument(min=1, help="A version's number, as `thalweg snapshots ls` lists it.")]


@snapshots.command("ls")
def list_versions(
    spec: ModelSpec = None,
    last: Annotated[int, typer.Option(min=1, help="List the newest N versions, newest last.")] = 20,
    json_file: JsonFile = None,
) -> None:
    """List the versions that are kept, the head and the pin.

    With age, examples, metrics and payloads.
    """
    from stream.runtime.errors import BadSnapshot
    from thalweg.versions.snapshot_tables import versions_table
    from thalweg.views.tables import print_table

    manifests: list[Manifest] = []
    damaged: dict[int, str] = {}
    with open_store(inspect_settings(), spec) as store:
        versions = store.versions()
        head, pinned = _head_and_pinned(store)
        for version in versions[-last:]:
            try:
                manifests.append(store.manifest(version))
            except BadSnapshot as bad:
                damaged[version] = str(bad)
        retained = store.versions() if damaged else []
    damaged = {version: reason for version, reason in damaged.items() if version in retained}  # else collected
    if not versions:
        print(
            f"no version of {store.model} is kept here: a learner publishes them; --spec or THALWEG_MODEL name another"
        )
    print_table(versions_table(manifests, head, pinned))
    for reason in damaged.values():
        print(reason)
    figures = {"versions": len(versions), "head": head, "pinned": pinned}
    write_json(json_file, {**figures, "damaged": len(damaged)})


@snapshots.command()
def show(version: Version, spec: ModelSpec = None, json_file: JsonFile = None) -> None:
    """Show one version: its origin, metrics, parts and sizes."""
    from thalweg.versions.snapshot_tables import metrics_of, origin_table, parts_table
    from thalweg.versions.version_diff import load_tables, part_sizes
    from thalweg.views.tables import print_table

    with open_store(inspect_settings(), spec) as store:
        manifest = store.manifest(version)
        tables, sizes = load_tables(store, manifest), part_sizes(store, manifest)
        print_table(origin_table(manifest))
        print_table(parts_table(manifest, tables, sizes))
    rows = {f"{part}_rows": len(of_part.keys) for part, of_part in tables.rows.items()}
    total = {f"{part}_bytes": sum(of_part) for part, of_part in sizes.items()}
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
    from thalweg.versions.version_diff import changes, load_tables
    from thalweg.views.tables import print_table

    settings = inspect_settings()
    with open_store(settings, spec) as store:
        old, new = (load_tables(store, store.manifest(version)) for version in (before, after))
    found = list(changes(old, new))
    print_table(metrics_table(old.manifest, new.manifest))
    print_table(rows_table(found))
    print_table(layers_table(old, new))
    wide = next((change for change in found if change.part == "wide"), None)
    if top and wide and wide.top:
        import numpy as np

        keys = np.array([key for key, *_ in wide.top[:top]], np.uint64)
        print_table(weights_table(wide.top[:top], _names(settings, new.manifest, keys)))
    figures: dict[str, float] = {}
    for change in found:
        values = {"new": change.new, "gone": change.removed, "moved": change.changed, "norm": change.norm}
        figures |= {f"{change.part}_{name}": value for name, value in values.items()}
    write_json(json_file, figures)


@snapshots.command()
def pin(version: Version, spec: ModelSpec = None) -> None:
    """Serve this version until `thalweg snapshots unpin`.

    New versions are published but not served. It applies to every ranker, also after a restart or after Redis was
    wiped.
    """
    with open_store(inspect_settings(), spec) as store:
        store.pin(version)
    print(f"version {version} is pinned: rankers serve it from now on; `thalweg snapshots unpin` ends that")


@snapshots.command()
def unpin(spec: ModelSpec = None) -> None:
    """Serve the newest version again.

    Ends a `thalweg snapshots pin` or `thalweg snapshots rollback`.
    """
    with open_store(inspect_settings(), spec) as store:
        head, pinned = _head_and_pinned(store)
        store.pin(0)
    newest = f"version {head}" if head else "what is published next"
    print(f"{f'version {pinned} is unpinned' if pinned else 'nothing was pinned'}; rankers serve {newest}")


@snapshots.command()
def rollback(spec: ModelSpec = None) -> None:
    """Pin the version before the one that is served now.

    Run again, it goes back one more. `thalweg snapshots unpin` goes back to the newest.
    """
    from thalweg.versions.decisions import roll_back

    with open_store(inspect_settings(), spec) as store:
        served, pinned = roll_back(store)
    print(f"version {pinned} is pinned instead of {served}; `thalweg snapshots unpin` goes back to the newest")


@snapshots.command()
def verify(spec: ModelSpec = None, json_file: JsonFile = None) -> None:
    """Check every payload of every stored version.

    Digests, shapes, finite numbers. Exit code 1 if one is wrong.
    """
    from rich.progress import track

    from thalweg.versions.verify import Verifier

    with open_store(inspect_settings(), spec) as store:
        versions, verifier = store.versions(), Verifier(store)
        for version in track(versions, "verifying", transient=True):
            verifier.verify(version)
    faults = list(verifier.faults())
    for line in faults:
        print(line)
    verified = len(versions) - verifier.collected
    print(f"{verified} versions, {verifier.payloads} payloads in {verifier.blobs} blobs, {len(faults)} wrong")
    if verifier.collected:
        print(f"{verifier.collected} versions were collected as too old before they were read")
    write_json(json_file, {"versions": verified, "contents": verifier.payloads, "wrong": len(faults)})
    if faults:
        raise typer.Exit(1)


def _head_and_pinned(store: "RedisStore") -> tuple[int, int]:
    """The version of the head and the pinned one; 0: none.

    A garbled one is printed and counts as none: the next version, or `pin` and `unpin` replace it.
    """
    from stream.runtime.errors import BadSnapshot

    versions = []
    for read in (store.head, store.decision):
        try:
            found = read()
            versions.append(found.version if found else 0)
        except BadSnapshot as bad:
            print(bad)
            versions.append(0)
    head, pinned = versions
    return head, pinned


def _names(settings: "Settings", manifest: "Manifest", keys: "U64") -> dict[int, str]:
    """Names of wide keys; without a log only those of their crosses."""
    from stream.features.encoder import Encoder
    from stream.features.page_features import Layout
    from stream.log.kafka_log import KafkaLog
    from stream.runtime.errors import LogError, SettingsError
    from stream.spec.spec_file import decode_spec
    from thalweg.views.feature_names import FeatureNames

    spec = decode_spec(manifest.spec)
    layout = Layout(spec)
    try:
        with closing(KafkaLog(settings)) as log:
            names = FeatureNames.read(log, layout)
    except (LogError, SettingsError) as bad:
        print(f"values aren't named: {bad}")
        names = FeatureNames(layout)
    return names.of_keys(Encoder(spec, layout), keys)
