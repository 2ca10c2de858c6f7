"""What a commit says beside its offset: the checkpoint, the rules of the join and the model, as text. Pure."""

import json
import logging
from typing import Final

from stream.joiner.join import Checkpoint
from stream.joiner.label_rules import LabelRules

RULES_TOLD: Final = ("policy", "window_ms", "lateness_ms", "known_ms", "early_ms", "organic", "organic_examples")

log = logging.getLogger(__name__)


def metadata_of(checkpoint: Checkpoint, rules: LabelRules, model: str = "") -> str:
    """What is stored beside the offset: for who looks back later also the rules, and the model whose spec has them."""
    stored: dict[str, object] = {"watermark_ms": checkpoint.watermark_ms, "finished_ms": checkpoint.finished_ms}
    if checkpoint.floor_ms:
        stored["floor_ms"] = checkpoint.floor_ms
    if checkpoint.unsure_ms is not None:
        stored["unsure_ms"] = checkpoint.unsure_ms
    stored["rules"] = {name: getattr(rules, name) for name in RULES_TOLD}
    if model:
        stored["model"] = model
    return json.dumps(stored)


def checkpoint_of(offset: int, metadata: str) -> Checkpoint:
    """The checkpoint of a commit. One that isn't ours (a tool moved the group) starts with no watermark."""
    try:
        stored = json.loads(metadata or "{}")
        watermark_ms, finished_ms, floor_ms = (
            int(stored.get(name, 0)) for name in ("watermark_ms", "finished_ms", "floor_ms")
        )
        unsure_ms = int(stored["unsure_ms"]) if "unsure_ms" in stored else None
        return Checkpoint(offset, watermark_ms, finished_ms, floor_ms, unsure_ms)
    except (ValueError, TypeError, AttributeError):
        log.warning("the commit at %d carries metadata that isn't ours: %r", offset, metadata)
        return Checkpoint(offset, 0, 0)
