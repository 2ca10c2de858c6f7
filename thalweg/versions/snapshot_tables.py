"""Tables of `thalweg snapshots`."""

from collections.abc import Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from stream.snapshots.manifest import Manifest
from thalweg.versions.version_diff import PartChange, VersionTables
from thalweg.views.tables import format_figure, format_time

KIB = 1024
LISTED = ("auc_arrival", "page_auc", "session_auc", "log_loss")


def versions_table(manifests: Sequence[Manifest], head: int, pinned: int) -> Table:
    """Versions, one a row; head and pin are marked."""
    table = Table("version", "", "made", "examples", "auc", "page auc", "session auc", "log loss",
                  "installs new in it", "payloads", title="snapshots", title_justify="left")  # fmt: skip
    for one in manifests:
        marks = [*(["head"] if one.version == head else []), *(["[bold]pinned[/]"] if one.version == pinned else [])]
        payloads = ", ".join(f"{name} {len(part.payloads())}" for name, part in one.parts.items())
        table.add_row(str(one.version), " ".join(marks), format_time(one.created_ms), f"{one.examples:,}",
                      *(format_figure(one.metrics.get(name)) for name in LISTED), str(len(one.ingest_ms)),
                      payloads)  # fmt: skip
    return table


def origin_table(one: Manifest) -> Table:
    """The origin of one version, and its metrics."""
    table = Table("", "", title=f"version {one.version} of {one.model}", title_justify="left")
    facts = {
        "made": format_time(one.created_ms), "parent": str(one.parent), "fencing token": str(one.token),
        "spec": one.fingerprint, "examples learned": f"{one.examples:,}",
        "next offsets in examples": ", ".join(f"{p}: {offset:,}" for p, offset in one.offset.items()),
        "event time": format_time(one.watermark_ms),
        "installs first learned in it": str(len(one.ingest_ms)), "golden pages": str(len(one.golden)),
        "deep part as of version": str(one.deep_version or "-"),
    }  # fmt: skip
    for name, value in [*facts.items(), *((name, format_figure(value)) for name, value in metrics_of(one).items())]:
        table.add_row(escape(name), value)
    return table


def parts_table(one: Manifest, tables: VersionTables, sizes: dict[str, list[int]]) -> Table:
    """Rows and sizes of each part of one version."""
    table = Table("part", "rows", "base, KiB", "merged delta, KiB", "small deltas", "small deltas, KiB")
    for name, part in one.parts.items():
        base, *rest = sizes[name]
        merged = rest.pop(0) if part.merged else 0
        table.add_row(name, f"{len(tables.rows[name].keys):,}", f"{base / KIB:,.0f}", f"{merged / KIB:,.0f}",
                      str(len(rest)), f"{sum(rest) / KIB:,.0f}")  # fmt: skip
    return table


def metrics_table(old: Manifest, new: Manifest) -> Table:
    """Metrics of two versions, and their change."""
    table = Table("", f"version {old.version}", f"version {new.version}", "change", title_justify="left",
                  title=f"{old.model}: from version {old.version} to {new.version}")  # fmt: skip
    table.add_row("examples", f"{old.examples:,}", f"{new.examples:,}", f"{new.examples - old.examples:+,}")
    before, after = metrics_of(old), metrics_of(new)
    for name in after:
        if name in before:
            was, now = format_figure(before[name]), format_figure(after[name])
            table.add_row(escape(name), was, now, f"{after[name] - before[name]:+.4f}")
    return table


def metrics_of(one: Manifest) -> dict[str, float]:
    """Its metrics, but for the number of examples, which the manifest has itself."""
    return {name: value for name, value in one.metrics.items() if name != "examples"}


def rows_table(found: Sequence[PartChange]) -> Table:
    """How many rows of each part are new, removed or changed."""
    table = Table("part", "rows before", "after", "new", "removed", "changed", "norm of the change")
    for one in found:
        counts = [f"{n:,}" for n in (one.before, one.after, one.new, one.removed, one.changed)]
        table.add_row(one.part, *counts, f"{one.norm:.4g}")
    return table


def layers_table(old: VersionTables, new: VersionTables) -> Table:
    """Norms of the dense layers of two versions."""
    table = Table("dense", "shape", "norm before", "after", "norm of the change")
    for name, array in new.dense.items():
        before = old.dense.get(name)
        step = np.linalg.norm(array - before) if before is not None and before.shape == array.shape else None
        table.add_row(name, "x".join(map(str, array.shape)),
                      f"{np.linalg.norm(before):.4g}" if before is not None else "-", f"{np.linalg.norm(array):.4g}",
                      "another shape" if step is None else f"{step:.4g}")  # fmt: skip
    return table


def weights_table(top: Sequence[tuple[int, float, float, float]], names: dict[int, str]) -> Table:
    """The wide weights that changed most, by name where one is known."""
    table = Table("weight of", "before", "after", "change", title="wide weights that moved most", title_justify="left")
    for key, _, before, after in top:
        name = escape(names.get(key, f"{key:016x}"))
        table.add_row(name, f"{before:+.4f}", f"{after:+.4f}", f"{after - before:+.4f}")
    return table
