r"""JSON with half of a surrogate pair (\ud800 to \udfff), which UTF-8 can't have.

JavaScript writes one where it cuts a text within a character. msgspec rejects all of a list for it, with words that
depend on what follows it; here only the element that has it is rejected, with one wording.
"""

import re
from typing import Final

import msgspec

DECODE_ERRORS: Final = msgspec.DecodeError, UnicodeDecodeError
WHY: Final = r"a text has half of a surrogate pair (\ud800 to \udfff)"

# A whole pair, a half (as an escape or as bytes), or any other escape, whose backslash begins no half.
_ESCAPES: Final = re.compile(
    rb"\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}"
    rb"|(?P<escape>\\u[dD][89a-fA-F][\da-fA-F]{2})|(?P<bytes>\xed[\xa0-\xbf][\x80-\xbf])"
    rb"|\\.",
    re.DOTALL,
)
_parts: Final = msgspec.json.Decoder(list[msgspec.Raw])


def replaced(raw: bytes) -> bytes:
    r"""JSON of the same length with U+FFFD for each half.

    >>> replaced(rb'["\ud83d\ude00", "\\ud800", "\udc00"]')
    b'["\\ud83d\\ude00", "\\\\ud800", "\\ufffd"]'
    """
    return _ESCAPES.sub(_replacement, raw)


def why_invalid(raw: bytes, error: Exception) -> str:
    """Why JSON is rejected: `error` says so, unless it's for half of a surrogate pair."""
    is_unreadable = isinstance(error, DECODE_ERRORS) and not isinstance(error, msgspec.ValidationError)
    return WHY if is_unreadable and replaced(raw) != raw else str(error)


def split_list(raw: bytes) -> list[bytes]:
    """The elements of a JSON list, unread: each may be invalid. Raises what msgspec raises when it is no list."""
    try:
        return [bytes(part) for part in _parts.decode(raw)]
    except DECODE_ERRORS:
        whole = replaced(raw)
        if whole == raw:
            raise
        parts = _parts.decode(whole)
    found, end = [], 0
    for part in parts:
        begin = whole.index(bytes(part), end)
        end = begin + len(part)
        found.append(raw[begin:end])
    return found


def _replacement(match: re.Match[bytes]) -> bytes:
    if match["escape"]:
        return rb"\ufffd"
    return "\ufffd".encode() if match["bytes"] else match[0]
