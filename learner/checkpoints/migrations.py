"""The description of a checkpoint, as its versions have it: read from each, written as the format level says.

Arrays need no migration: a reader takes those that it knows. Those of checkpoints before 0.2 (NumPy archives, version
0) are converted where they're restored (`model_arrays.py`).
"""

from typing import Final

import msgspec

from learner.checkpoints.checkpoint import Meta
from learner.checkpoints.file_format import OtherFormat

ADDED: Final = {2: ("release", "log_ms")}  # fields, by the first version that has them; version 1 refuses them


def decode_meta(raw: bytes) -> Meta:
    """From any version: fields that it lacks have their defaults. Its digest was right: raises OtherFormat."""
    try:
        return msgspec.json.decode(raw, type=Meta)
    except msgspec.MsgspecError as error:
        raise OtherFormat(f"its description has other fields: {error}") from error


def encode_meta(meta: Meta, version: int) -> msgspec.Raw:
    """In this version: fields that were added later have their defaults, which aren't written."""
    later = {name for first, names in ADDED.items() if first > version for name in names}
    defaults = {field.name: field.default for field in msgspec.structs.fields(Meta) if field.name in later}
    return msgspec.Raw(msgspec.json.encode(msgspec.structs.replace(meta, **defaults)))
