"""A commit's metadata, as text beside its offset: restart point, confirmed offset and rules. Pure.

A rebuild of the state starts at the offset, the oldest record that it needs. `confirmed` is the next offset whose
output isn't confirmed: the broker acknowledged all output of the records below it, so they rebuild the state silently.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from stream.joiner.join import RestartPoint
from stream.joiner.label_rules import LabelRules
from stream.runtime.formats import COMMIT, RELEASES

# Incremented whenever the same records lead to another state or other labels: a joiner rejects newer commits.
JOIN_VERSION: Final = COMMIT.version
RULES_STORED: Final = (
    "policy", "window_ms", "lateness_ms", "known_ms", "early_ms", "organic", "organic_examples", "skew_ms",
    "delays_ms",
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a partition's output is, beside its restart point.

    `confirmed`: the next offset whose output isn't confirmed. `read_ms`: append time of the last record below it.
    `late`: late events below it, over all workers. `uncommitted_max`: how many examples may have been emitted above
    it, and are emitted again by the next owner; `emitted_max`: the most that its author has emitted between two
    commits, all partitions together: more, where one record led to more.
    """

    confirmed: int
    read_ms: int = 0
    late: int = 0
    uncommitted_max: int = 0
    emitted_max: int = 0


@dataclass(frozen=True)
class Commit:
    """A decoded commit: restart point, progress, and the join version, rules, model and release of its author."""

    restart_point: RestartPoint
    progress: Progress
    version: int = 0
    rules: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    release: str = ""


def encode_metadata(
    restart_point: RestartPoint, rules: LabelRules, model: str = "", progress: Progress | None = None
) -> str:
    """The text that is stored beside the offset. Audits read rules and model (the spec's name), too."""
    stored: dict[str, object] = {"watermark_ms": restart_point.watermark_ms, "finished_ms": restart_point.finished_ms}
    if restart_point.floor_ms:
        stored["floor_ms"] = restart_point.floor_ms
    if restart_point.unsure_ms is not None:
        stored["unsure_ms"] = restart_point.unsure_ms
    if progress is not None:
        stored |= {name: value for name, value in asdict(progress).items() if value}
    stored["version"] = JOIN_VERSION
    stored["rules"] = _stored(rules)
    if model:
        stored["model"] = model
    stored["release"] = RELEASES[-1]  # who finalizes an upgrade looks at it
    return json.dumps(stored)


def decode_commit(offset: int, metadata: str) -> Commit:
    """Decode a stored commit. One without `confirmed` (an older joiner's) confirms nothing beyond its offset.

    Foreign metadata (a tool moved the group) means a start without a watermark.
    """
    try:
        stored = json.loads(metadata or "{}")
        watermark_ms, finished_ms, floor_ms, version = (
            int(stored.get(name, 0)) for name in ("watermark_ms", "finished_ms", "floor_ms", "version")
        )
        read_ms, late, uncommitted_max, emitted_max = (
            int(stored.get(name, 0)) for name in ("read_ms", "late", "uncommitted_max", "emitted_max")
        )
        unsure_ms = int(stored["unsure_ms"]) if "unsure_ms" in stored else None
        confirmed = max(int(stored.get("confirmed", offset)), offset)
        rules, model = stored.get("rules", {}), str(stored.get("model", ""))
        return Commit(
            RestartPoint(offset, watermark_ms, finished_ms, floor_ms, unsure_ms),
            Progress(confirmed, read_ms, late, uncommitted_max, emitted_max),
            version,
            rules if isinstance(rules, dict) else {},
            model,
            str(stored.get("release", "")),
        )
    except (ValueError, TypeError, AttributeError):
        log.warning("the commit at %d has foreign metadata, so it starts without a watermark: %r", offset, metadata)
        return Commit(RestartPoint(offset, 0, 0), Progress(offset))


def rule_differences(commit: Commit, rules: LabelRules, model: str) -> list[str]:
    """Differences between the commit's rules and ours, one text each.

    Rules that the commit doesn't contain are skipped.
    """
    found = [
        f"{name} was {commit.rules[name]!r} and is {value!r}"
        for name, value in _stored(rules).items()
        if name in commit.rules and commit.rules[name] != value
    ]
    if commit.model and model and commit.model != model:
        found.append(f"the model was {commit.model} and is {model}")
    return found


def join_identity(rules: LabelRules, model: str) -> str:
    """Identity of a joiner's version, model and rules, as text: a saved state of another one can't be loaded."""
    return json.dumps([JOIN_VERSION, model, _stored(rules)])


def _stored(rules: LabelRules) -> dict[str, Any]:
    """The rules as JSON has them; without delays where the policy has none, as joiners before them wrote."""
    values = {name: getattr(rules, name) for name in RULES_STORED}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value != ()}
