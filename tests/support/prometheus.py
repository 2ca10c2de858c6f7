"""A real Prometheus (Debian's package), and what it scraped, for tests."""

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.waiting import wait_until
from thalweg.stack.broker import REPOSITORY
from thalweg.stack.server import LOOPBACK, free_port

OBSERVABILITY = REPOSITORY / "deploy" / "observability"
RULES = OBSERVABILITY / "rules.yml"
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs Prometheus and promtool: apt-get install prometheus",
)


def rules() -> list[dict[str, Any]]:
    """All recording rules and alerts."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """The alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str | Path) -> None:
    """Run promtool, which must succeed."""
    done = subprocess.run(["promtool", *map(str, arguments)], cwd=OBSERVABILITY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """Asks a Prometheus over HTTP."""

    def __init__(self, port: int) -> None:
        self._address = f"http://{LOOPBACK}:{port}"

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"{self._address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def values(self, query: str) -> list[float]:
        """The value of each series that an instant query returns. Raises HTTPError when it is invalid."""
        url = f"{self._address}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(url, timeout=30) as answer:
            found = json.load(answer)["data"]
        assert found["resultType"] == "vector", query
        return [float(one["value"][1]) for one in found["result"]]

    def firing(self) -> list[dict[str, str]]:
        """The labels of each alert that fires."""
        with urllib.request.urlopen(f"{self._address}/api/v1/alerts", timeout=30) as answer:
            found = json.load(answer)["data"]["alerts"]
        return [dict(one["labels"]) for one in found if one["state"] == "firing"]


@contextmanager
def scraping(targets: Path, folder: Path, *, pending: str) -> Iterator[Prometheus]:
    """A Prometheus with the project's rules, which scrapes each second the services that have a file in `targets`.

    `pending` replaces each alert's `for`. Its files are in `folder`.
    """
    config = yaml.safe_load((OBSERVABILITY / "prometheus-local.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    [scraped] = config["scrape_configs"]
    scraped["file_sd_configs"] = [{"files": [f"{targets}/*.json"], "refresh_interval": "1s"}]
    with_pending = yaml.safe_load(RULES.read_text())
    for group in with_pending["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = pending
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules.yml").write_text(yaml.safe_dump(with_pending))
    port = free_port()
    options = {
        "config.file": folder / "prometheus.yml", "storage.tsdb.path": folder / "data",
        "web.listen-address": f"{LOOPBACK}:{port}",
    }  # fmt: skip
    with (folder / "log").open("wb") as log:
        command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"], "GOMAXPROCS": "1"})
    try:
        made = Prometheus(port)
        wait_until(made.is_ready, f"Prometheus to be ready; see {folder / 'log'}")
        yield made
    finally:
        process.terminate()
        process.wait(30)
