"""The machine of a benchmark, and two quick yardsticks measured in the run: they show whether two runs compare.

A cloud calls many generations of a CPU by one name, so family and model go with it; and one machine is faster
on one day than on another, so how fast it is now is measured: arithmetic by BLAS, and Python itself.
`python -m benchmarks.machine` writes it as JSON.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
WIDTH = 512  # of the matrices
TURNS = 100_000  # of the loop
NUMBERS = {"cpu family": "family", "model": "model", "stepping": "stepping",
           "CPU implementer": "implementer", "CPU part": "part"}  # fmt: skip

Machine = dict[str, str | float]


def measured() -> Machine:
    """`machine` in a process of its own, so that it doesn't influence the benchmark.

    BLAS makes as many threads as there are cores when numpy is imported, and a benchmark may pin itself before that.
    """
    command = [sys.executable, "-m", "benchmarks.machine"]
    found: Machine = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def machine(now: datetime, cpuinfo: Path = CPUINFO) -> Machine:
    """The machine as it is now, idle or not. What the system doesn't report is left out."""
    info = read_cpuinfo(cpuinfo.read_text()) if cpuinfo.exists() else {}
    found: Machine = {
        "cpu": named(info),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "gflops_f32_core": round(gflops_f32(), 1),
        "python_loop_ns": round(loop_ns(), 1),
        "python": platform.python_version(),
        "date": now.isoformat(timespec="minutes"),
    }
    if "cpu MHz" in info:
        found["mhz"] = round(float(info["cpu MHz"]))
    for package in ("numpy", "torch"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def caption(found: Machine) -> str:
    """The same in a few words, for under a table."""
    clock = f" at {found['mhz']} MHz" if "mhz" in found else ""
    packages = "".join(f", {package} {found[package]}" for package in ("numpy", "torch") if package in found)
    return (
        f"{found['cpu']}{clock}, {found['cores']} cores, {found['memory_gb']} GB, load {found['load']} before; "
        f"one core: {found['gflops_f32_core']} GFLOP/s in float32, {found['python_loop_ns']} ns a turn of a Python "
        f"loop; Python {found['python']}{packages}; {found['date']}"
    )


def read_cpuinfo(text: str) -> dict[str, str]:
    """The first processor's properties by name."""
    pairs = (line.partition(":") for line in text.strip().split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def named(info: dict[str, str]) -> str:
    """A CPU's name with its numbers; by default what the standard library knows."""
    name = info.get("model name") or platform.processor() or platform.machine()
    numbers = ", ".join(f"{short} {info[long]}" for long, short in NUMBERS.items() if long in info)
    return f"{name} ({numbers})" if numbers else name


def gflops_f32() -> float:
    """GFLOP/s of a product of two 512 × 512 float32 matrices by numpy's BLAS on one thread: the best of 20."""
    import numpy as np  # only here: who reads a caption needs neither
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # ships no types

    a, b = np.random.default_rng(1).random((2, WIDTH, WIDTH), np.float32)
    out = np.empty_like(a)
    with threadpool_limits(1):
        return 2 * WIDTH**3 / best_s(lambda: np.matmul(a, b, out=out), 20) / 1e9


def loop_ns() -> float:
    """ns per iteration of a plain loop in Python: the best of 10."""

    def loop() -> int:
        total = 0
        for n in range(TURNS):
            total += n
        return total

    return best_s(loop, 10) / TURNS * 1e9


def best_s(work: Callable[[], object], times: int) -> float:
    """The shortest of several runs: the least disturbed by other processes."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return min(taken)


def cpu_s(pid: int) -> float:
    """CPU time that a process has taken so far, of all its threads. Raises OSError when it has ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    json.dump(machine(datetime.now(UTC)), sys.stdout)
