"""Versions of everything that is stored or sent, and who reads it: one table, which docs/upgrading.md has, too.

A reader takes its own version and older ones, and refuses a newer one. A version rises when an earlier reader would
misread what is written, or lose a part of it; a field that such a reader may skip doesn't raise it.
"""

from typing import Final, NamedTuple


class Format(NamedTuple):
    """One format. `mark`: how a reader recognises the version; `newer`: what it does with a newer one."""

    name: str
    where: str
    version: int
    mark: str
    readers: str
    newer: str

    def why_unreadable(self, found: int) -> str:
        """Why a reader refuses this version, and the remedy; empty if it can read it.

        >>> Format("manifest", "", 1, "", "", "").why_unreadable(1)
        ''
        >>> Format("manifest", "", 1, "", "", "").why_unreadable(3)
        'manifest format 3 is newer than 1, which this build reads: start the build that wrote it, or a later one'
        """
        if found <= self.version:
            return ""
        return (
            f"{self.name} format {found} is newer than {self.version}, which this build reads: "
            "start the build that wrote it, or a later one"
        )


CHECKPOINT: Final = Format(
    "checkpoint", "`.local/checkpoints/`, `.local/retrains/*/candidate/`", 1,
    "8th byte of the file; 0: an `.npz` archive", "learner, retrain", "the learner doesn't start",
)  # fmt: skip
MANIFEST: Final = Format(
    "manifest", "Redis, `.local/ranker/`, `.local/pins/`", 1, "field `format`; its blobs have no other",
    "ranker, learner, `thalweg snapshots`", "the ranker keeps the version that it serves",
)  # fmt: skip
COMMIT: Final = Format(
    "commit", "metadata of the joiner's offsets in `events`", 2,
    "`version`: rises also when the join emits other labels", "joiner, `thalweg audit`", "the joiner doesn't start",
)  # fmt: skip
JOIN_STATE: Final = Format(
    "join state", "`.local/joiner/`", 1, "field `format`, and the commit's version", "joiner",
    "rebuilt from the log",
)  # fmt: skip
NUMBERS: Final = Format(
    "version numbers", "`.local/numbers/`", 1, "fields by name", "learner", "unknown fields are skipped",
)  # fmt: skip
RECORD: Final = Format(
    "record", "all topics", 1, "each type's tag; fields are added at the end only", "every room, callers",
    "fields at the end are skipped; a record of an unknown tag is a dead letter",
)  # fmt: skip
PAGE: Final = Format(
    "page features", "in impressions, examples and replies", 1, "word 0: a hash of the layout", "learner, ranker",
    "an example of an unknown layout is a dead letter",
)  # fmt: skip
PROFILES: Final = Format(
    "users and histories", "Redis, copied from the topics", 1,
    "users: as a record; histories: the value of the marker key",
    "ranker, joiner", "histories are copied again",
)  # fmt: skip
DECISION: Final = Format(
    "head and decision", "Redis; the decision also in `.local/ranker/` and `.local/pins/`", 1, "fields by name",
    "ranker, learner, `thalweg snapshots`", "unknown fields are skipped",
)  # fmt: skip
VERDICT: Final = Format(
    "retrain's verdict", "`.local/retrains/`", 1, "fields by name", "learner", "none: retrain again",
)  # fmt: skip
RUN_FILE: Final = Format(
    "run file", "`.local/run/`, `.local/stack.json`", 1, "fields by name", "`thalweg status`, `up`, `down`",
    "unreadable: start the service again",
)  # fmt: skip

FORMATS: Final = (
    RECORD, PAGE, COMMIT, JOIN_STATE, CHECKPOINT, NUMBERS, VERDICT, MANIFEST, DECISION, PROFILES, RUN_FILE,
)  # fmt: skip


def table() -> str:
    """The table in Markdown."""
    rows = [("format", "where", "version", "recognised by", "read by", "a newer one")]
    rows += [("---",) * 6]
    rows += [(one.name, one.where, str(one.version), one.mark, one.readers, one.newer) for one in FORMATS]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    print(table(), end="")
