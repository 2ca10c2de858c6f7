"""What a misspelled name might mean."""

import difflib


def near(name: str, known: list[str]) -> str:
    """The closest known name, or all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known)) or 'none'}"
