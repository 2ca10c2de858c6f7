"""Joiners that start without importing anything: forked, as ordered by lines of JSON on stdin; pids on stdout.

An order: {"environment": {...}, "arguments": [...], "log": path}. The child is `thalweg ARGUMENTS` from then on.
Imports take seconds on a busy machine, and these tests start dozens of joiners.
"""

import contextlib
import json
import os
import signal
import sys

import stream.histories  # all here, so that no child has to
import stream.joiner
import stream.kafka_log
import stream.spec_file  # noqa: F401
from stream.turn import warm_up
from thalweg.main import app


def become(order: dict[str, object]) -> None:
    """Be the command; never returns."""
    log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream_number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(file, stream_number)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update({name: str(value) for name, value in dict(order["environment"]).items()})  # type: ignore[call-overload]
    app([str(word) for word in list(order["arguments"])])  # type: ignore[call-overload]


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that those who were killed are gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm_up()  # loads the kernels
    print("ready", flush=True)
    children = []
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            become(json.loads(line))
        children.append(pid)
        print(pid, flush=True)
    for pid in children:  # whoever gave the orders has ended
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
