"""The rooms of a deployment, and what each of them exports at one moment."""

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

from prometheus_client.samples import Sample

from ranker.http.server import parse_address
from stream.runtime.errors import SettingsError
from thalweg.stack.status import Service, samples_of

ROOMS: Final = ("joiner", "learner", "ranker")
READ_AT_ONCE: Final = 4  # one that hangs delays no other
NOTE_CHARS_MAX: Final = 200

State = Literal["up", "starting", "gone"]


class RoomAddress(NamedTuple):
    """Where the instances of a room export metrics: all addresses of `host`."""

    room: str
    host: str
    port: int


class RoomReading(NamedTuple):
    """One instance of a room. `note`: its own words, or why it doesn't answer; `http`: where a ranker answers."""

    room: str
    worker: str
    state: State
    note: str
    samples: Sequence[Sample] = ()
    http: str = ""


class RoomReader:
    """Reads all rooms: those of `addresses`, or without any those whose run files are under `local`.

    `names`: what their samples' names begin with; others aren't parsed.
    """

    def __init__(self, local: Path, addresses: Sequence[RoomAddress] = (), names: tuple[str, ...] = ("",)) -> None:
        self._run, self._addresses, self._names = local / "run", addresses, names
        self._pool = ThreadPoolExecutor(READ_AT_ONCE, thread_name_prefix="rooms")

    def read(self) -> list[RoomReading]:
        """The state of each instance; a kind of room without any instance counts as one that is gone."""
        found = list(self._pool.map(partial(_read, names=self._names), self._services()))
        kinds = {one.room for one in found}
        where = "at its address" if self._addresses else f"in {self._run}"
        return found + [RoomReading(room, "", "gone", f"none was found {where}") for room in ROOMS if room not in kinds]

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _services(self) -> list[Service]:
        if self._addresses:
            return [service for address in self._addresses for service in _instances(address)]
        found = (Service.read(path) for path in sorted(self._run.glob("*.json")))
        return [one for one in found if one and one.room in ROOMS]


def parse_rooms(text: str) -> list[RoomAddress]:
    """Addresses as ROOM=HOST:PORT, comma separated. Raises SettingsError.

    >>> parse_rooms("joiner=joiner:9101,ranker=10.0.0.2:9103")
    [RoomAddress(room='joiner', host='joiner', port=9101), RoomAddress(room='ranker', host='10.0.0.2', port=9103)]
    """
    found = []
    for part in filter(None, (one.strip() for one in text.split(","))):
        room, equals, address = part.partition("=")
        try:
            if room not in ROOMS or not equals:
                raise SettingsError(part)
            found.append(RoomAddress(room, *parse_address(address)))
        except SettingsError:
            text = f"--rooms takes ROOM=HOST:PORT, ROOM one of {', '.join(ROOMS)}; not {part!r}"
            raise SettingsError(text) from None
    return found


def _instances(address: RoomAddress) -> list[Service]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    hosts = sorted({f"[{host}]" if ":" in host else host for host in (str(one[4][0]) for one in found)})
    return [Service(address.room, f"{host}:{address.port}", 0, host, address.port) for host in hosts]


def _read(service: Service, names: tuple[str, ...]) -> RoomReading:
    if service.pid and not service.is_running:
        return _gone(service, f"its process (pid {service.pid}) has ended")
    status, says = service.get("/readyz")
    exported = service.exported() if status else ""
    if not exported:
        return _gone(service, f"it doesn't answer: {says.strip()}"[:NOTE_CHARS_MAX])
    state: State = "up" if status == 200 else "starting"
    note, samples = says.strip()[:NOTE_CHARS_MAX], samples_of(exported, names)
    return RoomReading(service.room, service.worker, state, note, samples, service.http)


def _gone(service: Service, why: str) -> RoomReading:
    return RoomReading(service.room, service.worker, "gone", why, (), service.http)
