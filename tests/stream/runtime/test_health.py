"""Liveness, readiness, metrics."""

import http.client
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from stream.runtime.errors import SettingsError
from stream.runtime.health import Health, check_alone, run_file, target_file
from stream.runtime.settings import Settings
from thalweg.stack.status import Service


def answer(port: int, path: str) -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def test_readiness_says_why(tmp_path: Path) -> None:
    """200 when ready, 503 when not, with the reason; liveness and metrics answer throughout."""
    state = (False, "waiting for Kafka")
    health = Health("127.0.0.1", 0, lambda: state)
    assert answer(health.port, "readyz") == (503, "waiting for Kafka\n")
    state = (True, "at work")
    assert answer(health.port, "readyz") == (200, "at work\n")
    assert answer(health.port, "livez") == (200, "ok\n")
    assert answer(health.port, "metrics")[0] == 200
    assert answer(health.port, "else")[0] == 404
    health.close()
    health.close()


def test_head_answers_as_get_without_the_body(tmp_path: Path) -> None:
    """Load balancers ask by HEAD."""
    health = Health("127.0.0.1", 0, lambda: (False, "waiting"))
    connection = http.client.HTTPConnection("127.0.0.1", health.port, timeout=5)
    for _ in range(2):
        connection.request("HEAD", "/readyz")
        found = connection.getresponse()
        assert (found.status, found.read()) == (503, b"")
    health.close()


def test_the_chosen_port_is_written_down_and_taken_away(tmp_path: Path) -> None:
    """`status` finds pid and port of each worker; nothing is left when it ends."""
    path = run_file(Settings(local=tmp_path, worker="7"), "joiner")
    health = Health("127.0.0.1", 0, lambda: (True, ""), written_to=path)
    told = json.loads(path.read_text())
    assert told == {"room": "joiner", "worker": "7", "pid": os.getpid(), "host": "127.0.0.1", "port": health.port}
    [target] = json.loads(target_file(path).read_text())  # Prometheus' file_sd
    assert target == {"targets": [f"127.0.0.1:{health.port}"], "labels": {"job": "joiner", "worker": "7"}}
    health.close()
    assert [*path.parent.iterdir(), *target_file(path).parent.iterdir()] == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_all_addresses_answer(tmp_path: Path, host: str) -> None:
    """Probes come from outside of a container, by IPv4 or IPv6; `status` finds either."""
    settings = Settings(local=tmp_path)
    try:
        health = Health(host, 0, lambda: (True, "ok"), written_to=run_file(settings, "ranker"))
    except SettingsError:
        assert host == "::"
        pytest.skip("this machine has no IPv6")
    assert answer(health.port, "readyz") == (200, "ok\n")  # by IPv4
    found = Service.read(run_file(settings, "ranker"))
    assert found is not None
    assert found.get("/readyz") == (200, "ok\n")
    health.close()


def test_a_taken_port_is_a_clear_error() -> None:
    """A port that another process has is named, with what to do."""
    health = Health("127.0.0.1", 0, lambda: (True, ""))
    with pytest.raises(SettingsError, match=f"{health.port}.*another port"):
        Health("127.0.0.1", health.port, lambda: (True, ""))
    health.close()


def test_a_second_process_of_the_same_worker_does_not_start(tmp_path: Path) -> None:
    """While the first one runs and its port answers; what it left behind when it was killed is no reason."""
    settings = Settings(local=tmp_path, worker="a")
    check_alone(settings, "ranker")
    health = Health("127.0.0.1", 0, lambda: (True, "ok"), written_to=run_file(settings, "ranker"))
    check_alone(settings, "ranker")  # ourselves
    written = json.loads(run_file(settings, "ranker").read_text())
    run_file(settings, "ranker").write_text(json.dumps(written | {"pid": os.getppid()}))
    with pytest.raises(SettingsError, match=r"THALWEG_WORKER=a runs already .* a THALWEG_WORKER of its own"):
        check_alone(settings, "ranker")
    check_alone(settings.model_copy(update={"worker": "b"}), "ranker")
    health.close()
    check_alone(settings, "ranker")
    run_file(settings, "ranker").write_text("{")
    check_alone(settings, "ranker")
