"""Rooms that start without importing anything: forked from one process that has imported them all.

Imports take seconds of a core, torch's above all, and these tests start dozens of rooms. A child is `thalweg ARGUMENTS`
from its fork on. The demo's tests start rooms as people do.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path


class Nest:
    """Where rooms come from. Its children end with it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, arguments: Sequence[str], settings: Mapping[str, object], log: Path) -> int:
        """`thalweg ARGUMENTS` with these settings, writing into `log`; returns its pid."""
        environment = {f"THALWEG_{name.upper()}": str(value) for name, value in settings.items()}
        order = json.dumps([environment, list(arguments), str(log)])
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(order, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@contextmanager
def nesting() -> Iterator[Nest]:
    """A nest, ready, until the end."""
    process = subprocess.Popen(
        [sys.executable, __file__], env=clean_environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield Nest(process)
    finally:
        process.stdin.close()  # it ends its children, and itself
        process.wait(20)


def clean_environment() -> dict[str, str]:
    """This one's, without the settings and switches of the tests; the house is found first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("THALWEG_")}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[2])}


def alive(pid: int) -> bool:
    """Is there such a process?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _become(
    app: Callable[[list[str]], int | None], environment: dict[str, str], arguments: list[str], log: str
) -> None:
    """Be the command; never returns."""
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, written), (2, written)):
        os.dup2(file, number)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(environment)
    app(arguments)
    sys.exit()


def _serve() -> None:
    """Forks a child for each order on stdin, a line of JSON, and tells its pid on stdout."""
    for room in (
        "stream.joiner.supervisor",
        "learner.service",
        "ranker.serving.service",
        "stream.snapshots.redis_store",
        "thalweg.text.retention",
    ):
        import_module(room)  # here, so that no child has to
    app = import_module("thalweg.cli.main").app
    import_module(
        "stream.joiner.record_processor"
    ).warm_up()  # loads the joiner's kernels; nothing of torch may run before a fork
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that those who were killed are gone
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("ready", flush=True)
    children = []
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _become(app, *json.loads(line))
        children.append(pid)
        print(pid, flush=True)
    for pid in children:  # whoever gave the orders has ended
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _serve()
