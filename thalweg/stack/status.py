"""What runs under a `.local`: the stack's servers, and the services by the files that they write while they run."""

import json
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from stream.events.topics import EVENTS, EXAMPLES, ITEMS, REQUESTS
from thalweg.stack import stack
from thalweg.stack.server import Lag, ServerStatus, start_time

TIMEOUT_S = 2.0
LAGS = {  # by room and topic, the metrics `..._records` and `..._seconds`
    "joiner": {EVENTS.name: "thalweg_joiner_consumer_lag"},
    "learner": {EXAMPLES.name: "thalweg_learner_lag"},
    "ranker": {REQUESTS.name: "thalweg_ranker_request_lag", ITEMS.name: "thalweg_ranker_item_lag"},
}


@dataclass(frozen=True)
class Service:
    """The address of a service's health and metrics."""

    room: str
    worker: str
    pid: int
    host: str
    port: int
    http: str = ""  # where a ranker answers over HTTP

    @staticmethod
    def read(path: Path) -> "Service | None":
        """From the file that the service wrote; None when there's none (yet)."""
        try:
            return Service(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def is_running(self) -> bool:
        """Whether its process runs."""
        return start_time(self.pid) is not None

    def get(self, path: str) -> tuple[int, str]:
        """HTTP status and body of a path; status 0: no answer."""
        try:
            with closing(HTTPConnection(self.host.strip("[]"), self.port, timeout=TIMEOUT_S)) as connection:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
        except (OSError, HTTPException) as bad:
            return 0, str(bad)

    def metrics(self) -> dict[str, float]:
        """Its counters and gauges: by name, summed over labels; and by `name.value`, for one label's value and for all.

        Empty: no answer.
        """
        found: dict[str, float] = {}
        for one in self.samples():
            values = {*one.labels.values(), ".".join(one.labels.values())} - {""}
            for name in (one.name, *(f"{one.name}.{value}" for value in values)):
                found[name] = found.get(name, 0.0) + one.value
        return found

    def samples(self) -> list[Sample]:
        """All that it exports; empty: no answer."""
        return samples_of(self.exported())

    def exported(self) -> str:
        """All that it exports, as text; empty: no answer."""
        status, text = self.get("/metrics")
        return text if status == 200 else ""

    def lags(self) -> tuple[Lag, ...]:
        """How far it is behind each topic that it reads; empty while it doesn't say."""
        samples, found = self.samples(), list[Lag]()
        for topic, name in LAGS.get(self.room, {}).items():
            records = [one.value for one in samples if one.name == f"{name}_records"]
            seconds = [one.value for one in samples if one.name == f"{name}_seconds"]
            if records:
                found.append(Lag(topic, int(sum(records)), max(seconds, default=0.0)))
        return tuple(found)

    def status(self) -> ServerStatus:
        """Its state now."""
        name, address = f"{self.room} {self.worker}", f"{self.host}:{self.port}"
        if not self.is_running:
            return ServerStatus(name, "stopped", address, self.pid, "it ended without saying so")
        code, body = self.get("/readyz")
        state = {200: "up", 503: "starting"}.get(code, "silent")
        return ServerStatus(name, state, address, self.pid, body.strip(), self.lags() if code else ())


def samples_of(text: str, names: tuple[str, ...] = ("",)) -> list[Sample]:
    """The samples of an export whose names begin with one of `names`; parsing one takes 10 to 20 µs.

    >>> [one.name for one in samples_of("# TYPE a gauge\\na 1\\nb 2\\n", names=("b",))]
    ['b']
    """
    wanted = "".join(line for line in text.splitlines(keepends=True) if line.startswith(names))
    return [one for family in text_string_to_metric_families(wanted) for one in family.samples]


def statuses(local: Path) -> list[ServerStatus]:
    """The stack's servers, then the services that run beside it. Raises StackError."""
    found = stack.status(local)
    if stack.is_unreadable(local):
        message = "stack.json can't be read: `thalweg down`, then `thalweg up`"
        found.append(ServerStatus("stack", "unknown", "", 0, message))
    services = [Service.read(path) for path in sorted((local / "run").glob("*.json"))]
    return found + [one.status() for one in services if one]
