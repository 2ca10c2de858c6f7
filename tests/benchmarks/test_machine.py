"""What a benchmark says of the machine under it."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
from rich.table import Table

from benchmarks import __main__ as entry
from benchmarks import machine

SERVER = """\
processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
cpu MHz\t\t: 2596.128
flags\t\t: fpu vme: de

processor\t: 1
model\t\t: 99
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 243.75
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


def test_a_cpu_is_told_with_its_numbers() -> None:
    """Two generations that a cloud calls alike have other numbers; the first processor speaks for all."""
    assert machine.named(machine.read_cpuinfo(SERVER)) == "AMD EPYC (family 25, model 17, stepping 1)"
    other = SERVER.replace(": 17\n", ": 1\n")
    assert machine.named(machine.read_cpuinfo(other)) == "AMD EPYC (family 25, model 1, stepping 1)"


def test_a_cpu_without_a_name_is_told_by_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux on ARM gives numbers alone, macOS has no such file: the standard library knows the kind."""
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert machine.named(machine.read_cpuinfo(ARM)) == "arm64 (implementer 0x41, part 0xd40)"
    assert machine.named({}) == "arm64"


def test_yardsticks_are_work_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """GFLOP/s are two operations for each of 512³ products; a turn's ns are the loop's time by its turns."""
    ran = []

    def in_half_a_second(work: Callable[[], object], times: int) -> float:
        ran.append(work())
        return 0.5

    monkeypatch.setattr(machine, "best_s", in_half_a_second)
    assert machine.gflops_f32() == pytest.approx(2 * 512**3 / 0.5 / 1e9)
    assert machine.loop_ns() == pytest.approx(0.5e9 / machine.TURNS)
    assert ran[1] == sum(range(machine.TURNS))


@pytest.mark.parametrize("text", [SERVER, ARM, None])
def test_every_fact_is_in_the_caption(text: str | None, tmp_path: Path) -> None:
    """Whatever the system tells, the line under a table says."""
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    found = machine.machine(datetime(2026, 1, 2, 3, 4, tzinfo=UTC), file)
    said = machine.caption(found)
    assert found["date"] == "2026-01-02T03:04+00:00"
    assert ("mhz" in found) == (text == SERVER)
    assert [key for key, value in found.items() if str(value) not in said] == []


def test_figures_stay_flat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures' keys are those of the benchmark, `machine` stands beside them and under the table."""
    made = ModuleType("benchmarks.made")

    def run(*, quick: bool) -> tuple[Table, dict[str, float]]:
        return Table("figure"), {"figure_ms": 1.5, "quick": float(quick)}

    made.run = run  # type: ignore[attr-defined]  # a module of a test
    monkeypatch.setitem(sys.modules, "benchmarks.made", made)
    monkeypatch.setattr(entry, "NAMES", {"made": "for this test"})
    monkeypatch.setattr(entry, "MANY_CORES", {"made"})  # the test isn't pinned
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "made", "--quick", "--json", str(file)])
    assert entry.main() == 0
    figures = json.loads(file.read_text())
    under = figures.pop("machine")
    assert figures == {"figure_ms": 1.5, "quick": 1.0}
    assert "".join(machine.caption(under).split()) in "".join(capsys.readouterr().out.split())


def test_help_names_all_benchmarks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With what each measures."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit, match="0"):
        entry.main()
    says = capsys.readouterr().out
    assert [name for name in entry.NAMES if f"{name}:" not in says] == []
