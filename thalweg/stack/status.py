"""What runs under a `.local`: the stack's servers, and services by the files that they write while they run."""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from thalweg.stack import stack
from thalweg.stack.server import born

PATIENCE_S = 2.0


@dataclass(frozen=True)
class Seen:
    """One server or service as it is now. `state`: up, starting, silent, stopped, unknown; `says`: in its own words."""

    name: str
    state: str
    address: str
    pid: int
    says: str = ""

    @property
    def fine(self) -> bool:
        """Whether it does its work."""
        return self.state == "up"


@dataclass(frozen=True)
class Service:
    """Where a service's health and metrics are."""

    room: str
    worker: str
    pid: int
    host: str
    port: int

    @staticmethod
    def read(path: Path) -> "Service | None":
        """From the file that it wrote; None when there's none (yet)."""
        try:
            return Service(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def get(self, path: str) -> tuple[int, str]:
        """HTTP status and text of one of its pages; status 0: no answer."""
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.port}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()
        except OSError as bad:
            return 0, str(bad)

    def metrics(self) -> dict[str, float]:
        """Its counters and gauges: by name, summed over labels; by `name.value` of one label and of all.

        Empty: no answer.
        """
        status, text = self.get("/metrics")
        found: dict[str, float] = {}
        if status == 200:
            for family in text_string_to_metric_families(text):
                for one in family.samples:
                    values = {*one.labels.values(), ".".join(one.labels.values())} - {""}
                    for name in (one.name, *(f"{one.name}.{value}" for value in values)):
                        found[name] = found.get(name, 0.0) + one.value
        return found

    def look(self) -> Seen:
        """How it is now."""
        name, address = f"{self.room} {self.worker}", f"{self.host}:{self.port}"
        if born(self.pid) is None:
            return Seen(name, "stopped", address, self.pid, "it ended without saying so")
        status, says = self.get("/readyz")
        return Seen(
            name, {200: "up", 503: "starting", 0: "silent"}.get(status, "silent"), address, self.pid, says.strip()
        )


def look(local: Path) -> list[Seen]:
    """The stack's servers, then the services that run beside it."""
    servers = [Seen(s.server.name, s.state, s.server.address, s.server.pid) for s in stack.status(local)]
    if stack.garbled(local):
        servers.append(Seen("stack", "unknown", "", 0, "stack.json can't be read: `thalweg down`, then `thalweg up`"))
    services = [Service.read(path) for path in sorted((local / "run").glob("*.json"))]
    return servers + [one.look() for one in services if one]
