"""Writes TOML with comments: strings, keys and commented lines."""

import json
import re
from typing import Final

COMMENT_COLUMN: Final = 46
QUOTED_MAX: Final = 24  # characters of a value in a comment


def toml_text(text: str) -> str:
    """A basic string of TOML.

    >>> toml_text('a "b"')
    '"a \\\\"b\\\\""'
    """
    whole = text.encode("utf-8", "replace").decode()  # a file's name may have bytes that aren't text
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(name: str) -> str:
    """A key of TOML, quoted only where it must be.

    >>> toml_key("age"), toml_key("shoe size")
    ('age', '"shoe size"')
    """
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml_text(name)


def quoted(value: str | float) -> str:
    """A value in a comment: on one line, truncated where it's long."""
    text = value if isinstance(value, str) else f"{value:.6g}"
    return toml_text(text if len(text) <= QUOTED_MAX else text[: QUOTED_MAX - 1] + "…")


def commented(line: str, reason: str) -> str:
    """A whole line, with its reason as a comment if it has one."""
    return f"{line.ljust(COMMENT_COLUMN)}  # {reason}\n" if reason else f"{line}\n"
