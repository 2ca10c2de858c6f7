"""Runs the examples of docs/integrate.md as its readers would."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "integrate.md"
TIMEOUT_S = 60.0


class Example(NamedTuple):
    """A block of code, and what it prints."""

    section: str
    language: str
    code: str
    printed: str


def examples() -> list[Example]:
    """All of the page, in order."""
    found = []
    for section in PAGE.read_text().split("\n## ")[1:]:
        blocks = re.findall(r"```(sh|python|js|java)\n(.*?)```\n```text\n(.*?)```", section, re.S)
        found += [Example(section.splitlines()[0], *block) for block in blocks]
    return found


def program_of(language: str) -> str | None:
    """What runs it; None where it isn't installed."""
    return (
        sys.executable if language == "python" else shutil.which({"sh": "sh", "js": "node", "java": "java"}[language])
    )


def run(example: Example, token: str, names: Mapping[str, str], folder: Path) -> str:
    """What it prints. `names`: what stands for addresses and topics of the page here."""
    code = example.code
    for written, here in names.items():
        code = code.replace(written, here)
    file = folder / {"sh": "ask.sh", "python": "ask.py", "js": "ask.mjs", "java": "Rank.java"}[example.language]
    file.write_text(code)
    done = subprocess.run(
        [program_of(example.language) or "", str(file)], capture_output=True, text=True, timeout=TIMEOUT_S,
        env={**os.environ, "TOKEN": token, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def shape(printed: str) -> str:
    """The output without what differs from run to run.

    >>> shape('{"items":["tea","mug"],"scores":[0.51,1e-05],"features":"AAEC="}')
    '{"items":["ITEM","ITEM"],"scores":[N,N],"features":"BYTES"}'
    """
    printed = re.sub(r'"features":"[^"]*"', '"features":"BYTES"', printed.strip())
    printed = re.sub(r'"notes":\[[^]]*\]', '"notes":NOTES', printed)  # a slow Redis is noted
    printed = re.sub(r"\b(tea|mug|kettle)\b", "ITEM", printed)
    return re.sub(r"(?<![\w-])\d+(\.\d+)?(e-?\d+)?\b", "N", printed)
