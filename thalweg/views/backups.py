"""The table of `thalweg backup --list`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from learner.backup.backup_manifest import BackupManifest


def backups_table(model: str, backups: "Sequence[tuple[str, BackupManifest | None]]") -> Table:
    """A row a backup, the newest last; None: it's damaged. `new`: bytes that no earlier one in the list has."""
    table = Table(title=f"backups of {model}")
    for column in ("id", "written", "offset", "examples", "MB", "new, MB"):
        table.add_column(column, justify="left" if column in ("id", "written") else "right", overflow="fold")
    seen: set[str] = set()
    for name, one in backups:
        if one is None:
            table.add_row(name, "damaged")
            continue
        blobs = one.blobs()
        size, new = (sum(blob.size for blob in some) for some in (
            blobs.values(), (blob for digest, blob in blobs.items() if digest not in seen)
        ))  # fmt: skip
        seen |= blobs.keys()
        written = datetime.fromtimestamp(one.created_ms / 1_000, UTC).isoformat(" ", "seconds")
        table.add_row(name, written, f"{one.offset:,}", f"{one.examples:,}", f"{size / 1e6:,.1f}", f"{new / 1e6:,.1f}")
    return table
