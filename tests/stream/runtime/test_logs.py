"""The log of the services."""

import subprocess
import sys
from pathlib import Path

import pytest

SAYS = """
import sys
from learner.publishing.pins import log
from stream.runtime.logs import log_to_stderr
log_to_stderr(sys.argv[1])
log.info("a version is kept")
log.warning("the store had lost it", why="it was wiped", version=7)
"""


@pytest.mark.parametrize(("level", "lines"), [("info", 2), ("warning", 1), ("error", 0)])
def test_every_room_logs_to_stderr_at_the_level_that_is_set(level: str, lines: int) -> None:
    """The learner, whose log has fields, like the others."""
    ran = subprocess.run([sys.executable, "-c", SAYS, level], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == lines
    assert not lines or ran.stderr.endswith("WARNING pins  the store had lost it version=7 why='it was wiped'\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_log_that_cant_be_written_ends_nobody() -> None:
    """On a full disk whoever logs goes on."""
    code = f"{SAYS}\nprint('went on')"
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([sys.executable, "-c", code, "info"], stdout=subprocess.PIPE, stderr=full, text=True)
    assert ran.stdout == "went on\n"
