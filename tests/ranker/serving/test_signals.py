"""What a signal does to a ranker, before and after it can rank."""

import signal
import subprocess
import sys
from typing import Final

import pytest

PATIENCE_S: Final = 60.0
RANKER: Final = """
import hashlib, sys, threading
from types import SimpleNamespace
from ranker.serving.process import _end_on_signals
stop = threading.Event()
is_warm = sys.argv[1] == "warm"
service = SimpleNamespace(ranks=lambda: (is_warm, ""), stop=stop, state="warming up")
_end_on_signals(service, SimpleNamespace(close=lambda: print("health closed", flush=True)))
print("started", flush=True)
if not is_warm:
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # compiled code: Python's handlers don't run
stop.wait()
print("stopped", flush=True)
"""


@pytest.mark.parametrize(("state", "said"), [("cold", "health closed\n"), ("warm", "stopped\n")])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_ranker(state: str, said: str, number: signal.Signals) -> None:
    """One that serves stops in order; one that still compiles ends at once, since nobody can miss anything."""
    with subprocess.Popen([sys.executable, "-c", RANKER, state], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "started\n"
            process.send_signal(number)
            assert process.communicate(timeout=PATIENCE_S)[0] == said
        finally:
            process.kill()
    assert process.returncode == 0
