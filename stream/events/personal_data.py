"""Where a user's data is, and how an `Erase` removes it: what receipts say. docs/privacy.md has the reasons."""

from typing import Final

import msgspec


class Place(msgspec.Struct, frozen=True):
    """One place that has a user's data: `data` is what it has, `removed` how and when that goes."""

    place: str
    data: str
    removed: str


AT_ONCE: Final = "at once"
PLACES: Final = (
    Place("joiner", "open pages and pending installs", AT_ONCE),
    Place("users", "attributes, in the topic and in Redis", f"{AT_ONCE}: a tombstone; compaction removes the record"),
    Place("histories", "installs, in the topic and in Redis", f"{AT_ONCE}: tombstones; compaction removes the records"),
    Place("ranker", "the profile that was read lately, the id that it names", f"{AT_ONCE}, by every ranker"),
    Place("model", "rows of the id: weights, statistics, embedding", f"{AT_ONCE}, as far as docs/privacy.md says"),
    Place("snapshots", "the same rows, in versions and local copies", "as versions are collected and bases replaced"),
    Place("checkpoints", "the same rows, in files; a hash of the id", "as later checkpoints replace them"),
    Place("events", "pages and installs, as they were sent", "by the topic's retention"),
    Place("examples", "labelled pages and organic installs", "by the topic's retention"),
    Place("organic", "installs without a page", "by the topic's retention"),
    Place("rank.requests", "requests, with what they brought, and rank.replies", "by the topics' retention: 1 h"),
    Place("dead letters", "rejected bytes that may name the user", f"{AT_ONCE} in users.dlq; else by retention"),
    Place("feature.names", "the id, of a user whom nobody described", f"{AT_ONCE}: a tombstone"),
    Place("quarantine", "pages in the evidence of refused versions", f"{AT_ONCE}: the file is deleted"),
    Place("exported files", "pages, installs, labels", "the next `thalweg export` writes those files again"),
    Place("erased", "the id, and until when it was erased", "never: it is replayed after a restore"),
)
