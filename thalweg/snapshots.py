"""`thalweg snapshots`: look at published versions, compare them, decide which one is served."""

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from thalweg.options import SPEC, JsonFile, SpecFile, kept_settings, open_store, write_json

if TYPE_CHECKING:
    from rich.table import Table

    from stream.redis_store import RedisStore
    from stream.settings import Settings
    from stream.snapshot import Manifest
    from stream.table import U64
    from thalweg.versions import Change, Laid

snapshots = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at published model versions, compare them, decide which one is served.",
)
Version = Annotated[int, typer.Argument(min=1, help="A version's number, as `thalweg snapshots ls` lists it.")]
KIB = 1024


@snapshots.command("ls")
def list_versions(
    spec: SpecFile = SPEC,
    last: Annotated[int, typer.Option(min=1, help="How many, newest last.")] = 20,
    json_file: JsonFile = None,
) -> None:
    """The versions that are kept: age, examples, metrics, contents; which one is the head, and which is pinned."""
    from stream.errors import BadSnapshot
    from thalweg.show import printed

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
    printed(_list(manifests, head, pinned))
    for why in damaged.values():
        print(why)
    figures = {"versions": len(versions), "head": head, "pinned": pinned}
    write_json(json_file, {**figures, "damaged": len(damaged)})


@snapshots.command()
def show(version: Version, spec: SpecFile = SPEC, json_file: JsonFile = None) -> None:
    """One version: what it was made of, its metrics, and each part's contents and sizes."""
    from thalweg.show import printed
    from thalweg.versions import lay, sizes

    with open_store(kept_settings(), spec) as store:
        manifest = store.manifest(version)
        laid, bytes_of = lay(store, manifest), sizes(store, manifest)
        printed(_facts(manifest))
        printed(_parts(manifest, laid, bytes_of))
    rows = {f"{part}_rows": len(held.keys) for part, held in laid.rows.items()}
    total = {f"{part}_bytes": sum(found) for part, found in bytes_of.items()}
    write_json(json_file, {"version": version, "examples": manifest.examples, **_metrics_of(manifest), **rows, **total})


@snapshots.command()
def diff(
    before: Version,
    after: Version,
    spec: SpecFile = SPEC,
    top: Annotated[int, typer.Option(min=0, max=20, help="How many of the largest changes are named.")] = 10,
    json_file: JsonFile = None,
) -> None:
    """What changed from one version to another: metrics, rows, norms of layers, and the weights that moved most."""
    from thalweg.show import printed
    from thalweg.versions import changes, lay

    settings = kept_settings()
    with open_store(settings, spec) as store:
        old, new = lay(store, store.manifest(before)), lay(store, store.manifest(after))
    found = list(changes(old, new))
    printed(_metrics(old.manifest, new.manifest))
    printed(_rows(found))
    printed(_layers(old, new))
    wide = next((change for change in found if change.part == "wide"), None)
    if top and wide and wide.top:
        import numpy as np

        keys = np.array([key for key, *_ in wide.top[:top]], np.uint64)
        printed(_moves(wide.top[:top], _names(settings, new.manifest, keys)))
    told = ("new", "gone", "moved", "norm")
    write_json(json_file, {f"{one.part}_{what}": getattr(one, what) for one in found for what in told})


@snapshots.command()
def pin(version: Version, spec: SpecFile = SPEC) -> None:
    """Serve this version, whatever is published from now on, until `unpin`.

    Every ranker obeys, after a restart and after Redis was wiped too. The learner learns and publishes on.
    """
    with open_store(kept_settings(), spec) as store:
        store.pin(version)
    print(f"version {version} is pinned: rankers serve it from now on; `thalweg snapshots unpin` lets go of it")


@snapshots.command()
def unpin(spec: SpecFile = SPEC) -> None:
    """Serve the newest version again."""
    with open_store(kept_settings(), spec) as store:
        pinned = _pinned_in(store)
        store.pin(0)
        head = _head_of(store)
    newest = f"version {head}" if head else "what is published next"
    print(f"{f'version {pinned} is let go of' if pinned else 'nothing was pinned'}; rankers serve {newest}")


@snapshots.command()
def rollback(spec: SpecFile = SPEC) -> None:
    """Pin the version before the one that is served now. Run again, it goes back one more."""
    from stream.errors import BadSnapshot

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
def verify(spec: SpecFile = SPEC, json_file: JsonFile = None) -> None:
    """Read every content of every version that is kept: digests, shapes, numbers. Exit code 1 if one is wrong."""
    from rich.progress import track

    from thalweg.verify import Verifier

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
    from stream.errors import BadSnapshot

    try:
        return read()
    except BadSnapshot as bad:
        print(bad)
        return 0


def _names(settings: "Settings", manifest: "Manifest", keys: "U64") -> dict[int, str]:
    """Names of wide keys; without a log (looking at Redis alone) only those of their crosses."""
    from stream.encoder import Encoder
    from stream.errors import LogError, SettingsError
    from stream.features import Layout
    from stream.kafka_log import KafkaLog
    from stream.spec_file import decode_spec
    from thalweg.names import Names

    spec = decode_spec(manifest.spec)
    layout = Layout(spec)
    try:
        with closing(KafkaLog(settings)) as log:
            names = Names.read(log, layout)
    except (LogError, SettingsError) as bad:
        print(f"values aren't named: {bad}")
        names = Names(layout)
    return names.of_keys(Encoder(spec, layout), keys)


def _list(manifests: "Sequence[Manifest]", head: int, pinned: int) -> "Table":
    from rich.table import Table

    from thalweg.show import figure

    table = Table("version", "", "made", "examples", "auc", "log loss", "installs new in it", "contents",
                  title="snapshots", title_justify="left")  # fmt: skip
    for one in manifests:
        marks = [*(["head"] if one.version == head else []), *(["[bold]pinned[/]"] if one.version == pinned else [])]
        contents = ", ".join(f"{name} {len(part.contents())}" for name, part in one.parts.items())
        table.add_row(str(one.version), " ".join(marks), _time(one.created_ms), f"{one.examples:,}",
                      figure(one.metrics.get("auc_arrival")), figure(one.metrics.get("log_loss")),
                      str(len(one.ingest_ms)), contents)  # fmt: skip
    return table


def _time(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000):%H:%M:%S.%f}"[:-3]


def _facts(one: "Manifest") -> "Table":
    from rich.table import Table

    from thalweg.show import figure

    table = Table("", "", title=f"version {one.version} of {one.model}", title_justify="left")
    facts = {
        "made": _time(one.created_ms), "follows": str(one.parent), "fencing token": str(one.token),
        "spec": one.fingerprint, "examples learned": f"{one.examples:,}",
        "next offsets in examples": ", ".join(f"{p}: {offset:,}" for p, offset in one.offset.items()),
        "event time": f"{datetime.fromtimestamp(one.watermark_ms / 1000):%Y-%m-%d %H:%M:%S}",
        "installs first learned in it": str(len(one.ingest_ms)), "golden pages": str(len(one.golden)),
    }  # fmt: skip
    for name, value in [*facts.items(), *((name, figure(value)) for name, value in _metrics_of(one).items())]:
        table.add_row(name, value)
    return table


def _parts(one: "Manifest", laid: "Laid", sizes: dict[str, list[int]]) -> "Table":
    from rich.table import Table

    table = Table("part", "rows", "base, KiB", "merged delta, KiB", "small deltas", "small deltas, KiB")
    for name, part in one.parts.items():
        base, *rest = sizes[name]
        merged = rest.pop(0) if part.merged else 0
        table.add_row(name, f"{len(laid.rows[name].keys):,}", f"{base / KIB:,.0f}", f"{merged / KIB:,.0f}",
                      str(len(rest)), f"{sum(rest) / KIB:,.0f}")  # fmt: skip
    return table


def _metrics(old: "Manifest", new: "Manifest") -> "Table":
    from rich.table import Table

    from thalweg.show import figure

    table = Table("", f"version {old.version}", f"version {new.version}", "change", title_justify="left",
                  title=f"{old.model}: from version {old.version} to {new.version}")  # fmt: skip
    table.add_row("examples", f"{old.examples:,}", f"{new.examples:,}", f"{new.examples - old.examples:+,}")
    before, after = _metrics_of(old), _metrics_of(new)
    for name in after:
        if name in before:
            table.add_row(name, figure(before[name]), figure(after[name]), f"{after[name] - before[name]:+.4f}")
    return table


def _metrics_of(one: "Manifest") -> dict[str, float]:
    """Its metrics; how many examples there were it says itself."""
    return {name: value for name, value in one.metrics.items() if name != "examples"}


def _rows(found: "Sequence[Change]") -> "Table":
    from rich.table import Table

    table = Table("part", "rows before", "after", "new", "gone", "moved", "length of the change")
    for one in found:
        counts = [f"{n:,}" for n in (one.before, one.after, one.new, one.gone, one.moved)]
        table.add_row(one.part, *counts, f"{one.norm:.4g}")
    return table


def _layers(old: "Laid", new: "Laid") -> "Table":
    import numpy as np
    from rich.table import Table

    table = Table("dense", "shape", "length before", "after", "length of the change")
    for name, array in new.dense.items():
        before = old.dense.get(name)
        step = np.linalg.norm(array - before) if before is not None and before.shape == array.shape else None
        table.add_row(name, "x".join(map(str, array.shape)),
                      f"{np.linalg.norm(before):.4g}" if before is not None else "-", f"{np.linalg.norm(array):.4g}",
                      "another shape" if step is None else f"{step:.4g}")  # fmt: skip
    return table


def _moves(top: "Sequence[tuple[int, float, float, float]]", names: dict[int, str]) -> "Table":
    from rich.table import Table

    table = Table("weight of", "before", "after", "change", title="wide weights that moved most", title_justify="left")
    for key, _, before, after in top:
        table.add_row(names.get(key, f"{key:016x}"), f"{before:+.4f}", f"{after:+.4f}", f"{after - before:+.4f}")
    return table
