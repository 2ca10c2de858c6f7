"""Services that start without importing anything: forked from one process that has imported them all.

Imports take seconds of a core, torch's above all, and these tests start dozens of services. A child is `thalweg
ARGUMENTS`, or another program, from its fork on. The demo's tests start services as people do.
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
from tempfile import TemporaryDirectory
from typing import Final, Literal, NamedTuple

from tests.support.waiting import wait_until

Program = Literal["thalweg", "joiner", "ranker", "metrics_table"]
IMPORTED: Final = (  # before any fork, so that no child has to
    "stream.joiner.supervisor",
    "learner.service",
    "torch",  # which draws a new model's weights
    "ranker.serving.service",
    "stream.snapshots.redis_store",
    "thalweg.text.retention",
)


class ForkedProcess(NamedTuple):
    """A child of the nest, used as a Popen is. `exit_file` is there once it has ended."""

    pid: int
    exit_file: Path

    def poll(self) -> int | None:
        """Its exit code, of a signal negative; None while it runs."""
        return None if alive(self.pid) else int(self.exit_file.read_text())

    def wait(self, wait_s: float = 30.0) -> int:
        """Its exit code, once it has ended. Raises AssertionError when it doesn't."""
        wait_until(lambda: not alive(self.pid), f"process {self.pid} to end", wait_s)
        return int(self.exit_file.read_text())

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)


class Nest:
    """Forks services. Its children end with it."""

    def __init__(self, process: "subprocess.Popen[str]", exits: Path) -> None:
        self._process, self._exits = process, exits

    def start(self, arguments: Sequence[str], settings: Mapping[str, object], log: Path) -> int:
        """`thalweg ARGUMENTS` with these settings, writing into `log`; returns its pid."""
        return self.run("thalweg", arguments, settings, log).pid

    def run(
        self, program: Program, arguments: Sequence[str], settings: Mapping[str, object], log: Path
    ) -> ForkedProcess:
        """A program with these arguments and settings, writing into `log`."""
        environment = {f"THALWEG_{name.upper()}": str(value) for name, value in settings.items()}
        order = json.dumps([program, environment, list(arguments), str(log)])
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(order, file=self._process.stdin, flush=True)
        pid = int(self._process.stdout.readline())
        return ForkedProcess(pid, self._exits / str(pid))


@contextmanager
def nesting() -> Iterator[Nest]:
    """A nest, ready, until the end."""
    with TemporaryDirectory() as exits:
        command = [sys.executable, "-m", "tests.support.forked_services", exits]
        process = subprocess.Popen(
            command, env=clean_environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield Nest(process, Path(exits))
        finally:
            process.stdin.close()  # it ends its children, and itself
            process.wait(20)


def clean_environment() -> dict[str, str]:
    """This process's, without the tests' settings and switches; this repository's packages are found first."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("THALWEG_")}
    return inherited | {"PYTHONPATH": str(Path(__file__).parents[2])}


def alive(pid: int) -> bool:
    """Is there such a process?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _become(
    program: Callable[[list[str]], object], environment: dict[str, str], arguments: list[str], log: str
) -> None:
    """Be the program; never returns."""
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, written), (2, written)):
        os.dup2(file, number)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.update(environment)
    program(arguments)
    sys.exit()


def _programs() -> dict[str, Callable[[list[str]], object]]:
    for module in IMPORTED:
        import_module(module)
    programs = {
        "thalweg": import_module("thalweg.cli.main").app,
        "joiner": import_module("tests.support.joiner_process").main,
        "ranker": import_module("tests.support.ranker_process").main,
        "metrics_table": lambda _: print(import_module("thalweg.views.metrics_table").table(), end=""),
    }
    # Loads the joiner's kernels; nothing of torch may run before a fork.
    import_module("stream.joiner.record_processor").warm_up()
    return programs


def _serve(exits: Path) -> None:
    """Fork a child for each order on stdin, a line of JSON, and print its pid; its exit code goes to a file there."""

    def reap(*_: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                (exits / str(ended.si_pid)).write_text(str(code))  # before the process is gone for those who look
                os.waitpid(ended.si_pid, 0)

    programs = _programs()
    signal.signal(signal.SIGCHLD, reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("ready", flush=True)
    children = []
    for line in sys.stdin:
        program, *order = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(programs[program], *order)
        children.append(pid)
        print(pid, flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for pid in children:  # whoever gave the orders has ended
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os._exit(0)  # nothing is left to do, and unloading torch takes seconds


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
