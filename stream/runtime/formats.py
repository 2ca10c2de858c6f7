"""Versions of everything that is stored or sent, and who reads it: one table, which docs/upgrading.md has, too.

A reader takes its own version and older ones, and refuses a newer one. A version rises when an earlier reader would
misread what is written, or lose a part of it; a field that such a reader may skip doesn't raise it.

The *format level* of a deployment says which release's versions are written (`stream/log/format_level.py`).
"""

from typing import Final, NamedTuple

RELEASES: Final = ("0.2", "0.3")  # by format level, the first one is 1
LEVEL: Final = len(RELEASES)  # of this build
CLIENT: Final = "thalweg-"
CLIENT_ID: Final = CLIENT + RELEASES[-1]  # of rankers at Kafka: so the members of their groups say what they run


def is_earlier(release: str) -> bool:
    """Whether a room that calls itself so is of an earlier release than this build; 0.2 said nothing: empty."""
    return release in ("", *RELEASES[:-1])


class Format(NamedTuple):
    """One format. `versions`: by level, the newest last; `mark`: how a reader recognises the version; `newer`: what it
    does with one that is newer than it knows.
    """

    name: str
    where: str
    versions: tuple[int, ...]
    mark: str
    readers: str
    newer: str

    @property
    def version(self) -> int:
        """The newest, which this build reads and writes."""
        return self.versions[-1]

    def at(self, level: int) -> int:
        """The version that is written at this level."""
        return self.versions[min(level, len(self.versions)) - 1]

    def why_unreadable(self, found: int) -> str:
        """Why a reader refuses this version, and the remedy; empty if it can read it.

        >>> Format("manifest", "", (1,), "", "", "").why_unreadable(1)
        ''
        >>> Format("manifest", "", (1,), "", "", "").why_unreadable(3)
        'manifest format 3 is newer than 1, which this build reads: start the build that wrote it, or a later one'
        """
        if found <= self.version:
            return ""
        return (
            f"{self.name} format {found} is newer than {self.version}, which this build reads: "
            "start the build that wrote it, or a later one"
        )


CHECKPOINT: Final = Format(
    "checkpoint", "`.local/checkpoints/`, `.local/retrains/*/candidate/`", (1, 2),
    "8th byte of the file; 0: an `.npz` archive", "learner, retrain", "the learner doesn't start",
)  # fmt: skip
MANIFEST: Final = Format(
    "manifest", "Redis, `.local/ranker/`, `.local/pins/`", (1,), "field `format`; its blobs have no other",
    "ranker, learner, `thalweg snapshots`", "the ranker keeps the version that it serves",
)  # fmt: skip
COMMIT: Final = Format(
    "commit", "metadata of the joiner's offsets in `events`", (2,),
    "`version`: rises also when the join emits other labels", "joiner, `thalweg audit`", "the joiner doesn't start",
)  # fmt: skip
JOIN_STATE: Final = Format(
    "join state", "`.local/joiner/`", (1,), "field `format`, and the commit's version", "joiner",
    "rebuilt from the log",
)  # fmt: skip
NUMBERS: Final = Format(
    "version numbers", "`.local/numbers/`", (1,), "fields by name", "learner", "unknown fields are skipped",
)  # fmt: skip
RECORD: Final = Format(
    "record", "all topics", (1, 2), "each type's tag; fields are added at the end only", "every room, callers",
    "fields at the end are skipped; a record of an unknown tag is a dead letter",
)  # fmt: skip
PAGE: Final = Format(
    "page features", "in impressions, examples and replies", (1,), "word 0: a hash of the layout", "learner, ranker",
    "an example of an unknown layout is a dead letter",
)  # fmt: skip
PROFILES: Final = Format(
    "users and histories", "Redis, copied from the topics", (1,),
    "users: as a record; histories: the value of the marker key",
    "ranker, joiner", "histories are copied again",
)  # fmt: skip
DECISION: Final = Format(
    "head and decision", "Redis; the decision also in `.local/ranker/` and `.local/pins/`", (1,), "fields by name",
    "ranker, learner, `thalweg snapshots`", "unknown fields are skipped",
)  # fmt: skip
VERDICT: Final = Format(
    "retrain's verdict", "`.local/retrains/`", (1,), "fields by name", "learner", "none: retrain again",
)  # fmt: skip
LEVEL_RECORD: Final = Format(
    "format level", "topic `formats`", (1,), "fields by name", "learner, `thalweg apply-topics`",
    "unknown fields are skipped; a greater level ends the learner",
)  # fmt: skip
RUN_FILE: Final = Format(
    "run file", "`.local/run/`, `.local/stack.json`", (1,), "fields by name", "`thalweg status`, `up`, `down`",
    "unreadable: start the service again",
)  # fmt: skip
BACKUP: Final = Format(
    "backup", "the target of `thalweg backup`", (1,), "field `format`; its files have their own",
    "`thalweg restore`, `backup`", "refused, with the reason",
)  # fmt: skip

FORMATS: Final = (
    RECORD, PAGE, COMMIT, JOIN_STATE, CHECKPOINT, NUMBERS, VERDICT, MANIFEST, DECISION, PROFILES, LEVEL_RECORD,
    RUN_FILE, BACKUP,
)  # fmt: skip


def table() -> str:
    """The table in Markdown."""
    versions = f"version in {', '.join(RELEASES)}"
    rows = [("format", "where", versions, "recognised by", "read by", "a newer one"), ("---",) * 6]
    for one in FORMATS:
        versions = ", ".join(str(one.at(level)) for level in range(1, LEVEL + 1))
        rows.append((one.name, one.where, versions, one.mark, one.readers, one.newer))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    print(table(), end="")
