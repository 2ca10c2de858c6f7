"""What a commit says beside its offset, as text: the state to rebuild from, how far output is confirmed, the rules.

The offset is where a rebuild starts: the oldest record of which something is remembered. `confirmed` is the next record
whose output isn't known to be in the log: whatever came of the records below it was acknowledged by the broker, so they
rebuild the state silently. Pure.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from stream.joiner.join import Checkpoint
from stream.joiner.label_rules import LabelRules

# Raised whenever the same records would lead to another state or other labels: a joiner refuses newer commits.
JOIN_VERSION: Final = 2
RULES_TOLD: Final = (
    "policy", "window_ms", "lateness_ms", "known_ms", "early_ms", "organic", "organic_examples", "skew_ms",
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far the output of a partition is, beside its checkpoint.

    `confirmed`: the next offset whose output isn't confirmed. `read_ms`: when the last record below it was appended.
    `late`: events below it that came too late, over all owners of the partition. `uncommitted_max`: so many examples
    may have been emitted above it, and are emitted again by whoever goes on from it.
    """

    confirmed: int
    read_ms: int = 0
    late: int = 0
    uncommitted_max: int = 0


@dataclass(frozen=True)
class Commit:
    """A commit as it was read: state, progress, and what its author ran by. `version` 0: from before versions."""

    checkpoint: Checkpoint
    progress: Progress
    version: int = 0
    rules: dict[str, Any] = field(default_factory=dict)
    model: str = ""


def metadata_of(checkpoint: Checkpoint, rules: LabelRules, model: str = "", progress: Progress | None = None) -> str:
    """What is stored beside the offset; the rules, and the model whose spec has them, also for who looks back later."""
    stored: dict[str, object] = {"watermark_ms": checkpoint.watermark_ms, "finished_ms": checkpoint.finished_ms}
    if checkpoint.floor_ms:
        stored["floor_ms"] = checkpoint.floor_ms
    if checkpoint.unsure_ms is not None:
        stored["unsure_ms"] = checkpoint.unsure_ms
    if progress is not None:
        stored |= {name: value for name, value in asdict(progress).items() if value}
    stored["version"] = JOIN_VERSION
    stored["rules"] = {name: getattr(rules, name) for name in RULES_TOLD}
    if model:
        stored["model"] = model
    return json.dumps(stored)


def commit_of(offset: int, metadata: str) -> Commit:
    """A commit as it was stored. Without progress of its own (an older joiner's) nothing is confirmed beyond it.

    One that isn't ours (a tool moved the group) starts with no watermark.
    """
    try:
        stored = json.loads(metadata or "{}")
        watermark_ms, finished_ms, floor_ms, version, read_ms, late, uncommitted_max = (
            int(stored.get(name, 0))
            for name in ("watermark_ms", "finished_ms", "floor_ms", "version", "read_ms", "late", "uncommitted_max")
        )
        unsure_ms = int(stored["unsure_ms"]) if "unsure_ms" in stored else None
        confirmed = max(int(stored.get("confirmed", offset)), offset)
        rules, model = stored.get("rules", {}), str(stored.get("model", ""))
        return Commit(
            Checkpoint(offset, watermark_ms, finished_ms, floor_ms, unsure_ms),
            Progress(confirmed, read_ms, late, uncommitted_max),
            version,
            rules if isinstance(rules, dict) else {},
            model,
        )
    except (ValueError, TypeError, AttributeError):
        log.warning("the commit at %d carries metadata that isn't ours: %r", offset, metadata)
        return Commit(Checkpoint(offset, 0, 0), Progress(offset))


def differences(commit: Commit, rules: LabelRules, model: str) -> list[str]:
    """In what its author ran otherwise, a text each; what an older one didn't store is no difference."""
    found = [
        f"{name} was {commit.rules[name]!r} and is {getattr(rules, name)!r}"
        for name in RULES_TOLD
        if name in commit.rules and commit.rules[name] != getattr(rules, name)
    ]
    if commit.model and model and commit.model != model:
        found.append(f"the model was {commit.model} and is {model}")
    return found


def author_of(rules: LabelRules, model: str) -> str:
    """What a joiner runs by, as text: a state of another one is of no use."""
    return json.dumps([JOIN_VERSION, model, {name: getattr(rules, name) for name in RULES_TOLD}])
