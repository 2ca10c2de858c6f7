"""docker-compose.yml and Dockerfile agree with each other and with what the code reads."""

import re
import shlex
import tomllib
from itertools import pairwise
from typing import Any

import pytest
import yaml

from stream.runtime.settings import Settings
from thalweg.stack.broker import REPOSITORY

ROOMS = {"joiner", "learner", "ranker"}
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
POM = (REPOSITORY / "stack" / "pom.xml").read_text()


def targets() -> dict[str, tuple[str, str]]:
    """Each target of the Dockerfile: what it starts from, and its own lines without comments."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    parts = re.findall(r"^FROM (\S+) AS (\S+)\n((?:(?!^FROM ).*\n?)*)", text, flags=re.MULTILINE)
    return {name: (origin, lines) for origin, name, lines in parts}


def lines_of(target: str) -> str:
    """All lines that a target's image is made by, those of the targets below it first."""
    origin, lines = targets()[target]
    return (lines_of(origin) if origin in targets() else f"FROM {origin}\n") + lines


def extras_of(target: str) -> set[str]:
    """The extras of pyproject.toml that a target installs."""
    return set(re.findall(r"--extra (\S+)", lines_of(target)))


def test_each_room_has_a_target_and_a_service() -> None:
    """Joiner, learner, ranker and the tools each have a target of their own and a service that is built from it."""
    for name in ROOMS | {"tools"}:
        assert name in targets()
        assert SERVICES[name]["build"]["target"] == name


def test_each_built_service_names_a_target() -> None:
    """Every target that compose builds is in the Dockerfile."""
    assert {one["build"]["target"] for one in SERVICES.values() if "build" in one} <= set(targets())


def test_each_room_runs_itself() -> None:
    """A room's image runs that room."""
    for room in ROOMS:
        assert 'ENTRYPOINT ["thalweg"]' in lines_of(room)
        assert lines_of(room).rstrip().endswith(f'CMD ["run", "{room}"]')


def test_all_rooms_run_by_one_spec() -> None:
    """Compose names the spec that the rooms run by, the same for all, and it is in their images."""
    commands = {room: SERVICES[room]["command"] for room in ROOMS}
    (spec,) = {command[-1] for command in commands.values()}
    assert commands == {room: ["run", room, "--spec", spec] for room in ROOMS}
    assert (REPOSITORY / spec).exists()
    assert "COPY . .\n" in lines_of("joiner")


def test_variables_are_settings() -> None:
    """Each THALWEG_ variable of compose and Dockerfile is a setting that the code reads, with a value it takes."""
    known = {f"THALWEG_{name.upper()}" for name in Settings.model_fields}
    in_image = dict(re.findall(r"\b(THALWEG_\w+)=(\S+)", DOCKERFILE))
    assert in_image
    for service in SERVICES.values():
        used = {k: v for k, v in service.get("environment", {}).items() if k.startswith("THALWEG_")} | in_image
        assert set(used) <= known
        Settings.model_validate({name.removeprefix("THALWEG_").lower(): value for name, value in used.items()})
    assert set(re.findall(r"THALWEG_\w+", (REPOSITORY / "docker-compose.yml").read_text())) <= known


def test_addresses_are_services() -> None:
    """The Kafka and the Redis that rooms are told are services, at the ports they listen on."""
    for name in ROOMS | {"tools", "topics"}:
        environment = SERVICES[name]["environment"]
        assert environment["THALWEG_KAFKA"] == "kafka:9092"
        assert environment["THALWEG_REDIS"] == "redis://redis:6379/0"
    assert SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://kafka:9092"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_ports_agree(room: str) -> None:
    """A room's health check and published port are those that it is told to listen on; published on loopback only."""
    port = SERVICES[room]["environment"][f"THALWEG_{room.upper()}_PORT"]
    assert SERVICES[room]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"http://127.0.0.1:{port}/readyz" in " ".join(SERVICES[room]["healthcheck"]["test"])


def test_published_ports_differ() -> None:
    """No two services publish the same port."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) == len(ROOMS)


def test_all_are_limited_and_checked() -> None:
    """Every service has a memory limit, and every one that stays has a health check."""
    for name, service in SERVICES.items():
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        if name not in ("topics", "tools"):
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_state_is_in_named_volumes() -> None:
    """What a service keeps is in a volume with a name, declared once; rooms keep theirs where THALWEG_LOCAL says."""
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])
    for room in ROOMS:
        assert SERVICES[room]["volumes"] == [f"{room}:/data"]
        assert "THALWEG_LOCAL=/data" in lines_of(room)


def test_rooms_wait_for_what_they_need() -> None:
    """A room starts when Kafka and Redis are healthy and the topics are there."""
    for room in ROOMS:
        conditions = {name: one["condition"] for name, one in SERVICES[room]["depends_on"].items()}
        assert conditions == {
            "kafka": "service_healthy",
            "redis": "service_healthy",
            "topics": "service_completed_successfully",
        }


def test_no_torch_but_in_the_learner() -> None:
    """The learner's image alone installs the extra that brings torch; the joiner's alone the one with Faust."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    with_torch = {name for name, needs in extras.items() if any(need.startswith("torch") for need in needs)}
    assert with_torch == {"learner"}
    assert {name: extras_of(name) for name in (*ROOMS, "tools")} == {
        "joiner": {"joiner"},
        "learner": {"learner"},
        "ranker": {"ranker"},
        "tools": {"tools"},
    }


def test_no_room_has_a_jvm() -> None:
    """No image that runs has Java or anything of the system's packages, and none starts from an image with it."""
    for name in ROOMS | {"tools"}:
        assert lines_of(name).startswith("FROM python:")
        assert not re.search(r"apt|apk|jre|jdk|java|mvn", lines_of(name), flags=re.IGNORECASE)


def test_fausts_cython_is_in_the_joiner() -> None:
    """Where Faust has no wheel (arm64) a stage of its own makes one; without Cython's modules no image is made.

    Built without a compiler, Faust is slow and says nothing.
    """
    _, made = targets()["faust"]
    assert re.search(r"apt-get install .*\bgcc\b.*\bpip wheel .*-w /wheels faust-streaming$", made.strip(), re.DOTALL)
    _, installed = targets()["joiner-packages"]
    assert "--mount=from=faust,source=/wheels,target=/wheels" in installed
    assert "--find-links /wheels" in installed
    assert installed.rstrip().endswith('&& python -c "import faust._cython.streams"')


def test_redis_is_full_before_it_is_ended() -> None:
    """Redis refuses writes below the container's limit, where the kernel would end it; it throws nothing away."""
    command = SERVICES["redis"]["command"]
    options = dict(pairwise(command[1:]))
    most, limit = (
        re.fullmatch(r"(\d+)(mb|g)", text) for text in (options["--maxmemory"], SERVICES["redis"]["mem_limit"])
    )
    assert most is not None
    assert limit is not None
    assert int(most[1]) * 2**20 <= 0.9 * int(limit[1]) * 2**30
    assert options["--maxmemory-policy"] == "noeviction"


def test_rooms_may_compile_their_kernels_before_they_are_unwell() -> None:
    """A first start compiles for minutes where rooms share two cores; `up --wait` gives up on a room that is unwell."""
    for room in ROOMS:
        assert SERVICES[room]["healthcheck"]["start_period"] == "600s"


def test_one_kafka_version() -> None:
    """Compose runs the Kafka that the local stack runs."""
    version = re.search(r"<kafka.version>(.*)</kafka.version>", POM)
    assert version is not None
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version[1]}"


def test_python_is_one_that_the_project_takes() -> None:
    """The images' Python is within requires-python."""
    version = re.search(r"^FROM python:3\.(\d+)-slim", DOCKERFILE, flags=re.MULTILINE)
    assert version is not None
    required = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = re.findall(r"3\.(\d+)", required)
    assert int(low) <= int(version[1]) < int(high)


def test_copied_paths_exist() -> None:
    """All that .dockerignore lets through, and all that the Dockerfile copies by name, is in the clone."""
    let_through = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, flags=re.MULTILINE) for word in line.split()]
    assert let_through
    for name in [*let_through, *copied]:
        assert (REPOSITORY / name).exists(), name
    packages = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"][
        "include"
    ]
    assert {pattern.removesuffix("*") for pattern in packages} <= set(let_through)


def test_commands_exist() -> None:
    """Each thalweg command that compose names, in its comments too, is one that the command line has."""
    from typer.main import get_command

    from thalweg.cli.main import app

    known = set(getattr(get_command(app), "commands"))  # noqa: B009  # typer's type doesn't tell it's a group
    text = (REPOSITORY / "docker-compose.yml").read_text()
    named = {shlex.split(line)[0] for line in re.findall(r"--rm tools ([a-z].*)", text)} | {"run"}
    named |= {SERVICES["topics"]["command"][0]}
    assert named <= known
