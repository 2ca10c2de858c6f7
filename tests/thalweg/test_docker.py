"""docker-compose.yml and Dockerfile agree with each other and with what the code reads."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from learner.memory import learner_needs
from ranker.memory import ranker_needs
from stream.runtime.memory import MB, with_joiner_memory
from stream.runtime.settings import Settings
from stream.snapshots.redis_client import RedisMemory
from stream.snapshots.redis_memory import redis_problem
from stream.spec.bounds import check_bounds
from stream.spec.spec_file import load_spec
from thalweg.console.rooms import parse_rooms
from thalweg.stack.broker import REPOSITORY

ROOMS = {"joiner", "learner", "ranker"}
SCALED = {"joiner", "ranker"}
TARGETS = {*ROOMS, "tools", "offline"}
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
SERVED = ("movielens", "store")  # specs that services run; the others are for backtests
TESTED_PYTHON = 11  # CI's
SMALL = 3_800_000_000  # what a machine of 4 GB has
POM = (REPOSITORY / "stack" / "pom.xml").read_text()


def targets() -> dict[str, tuple[str, str]]:
    """Each target of the Dockerfile: what it starts from, and its own lines without comments."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    parts = re.findall(r"^FROM (\S+) AS (\S+)\n((?:(?!^FROM ).*\n?)*)", text, flags=re.MULTILINE)
    # amd64 stands for the platform that is built for.
    return {name: (origin.replace("${TARGETARCH}", "amd64"), lines) for origin, name, lines in parts}


def lines_of(target: str) -> str:
    """All lines that a target's image is made by, those of the targets below it first."""
    origin, lines = targets()[target]
    return (lines_of(origin) if origin in targets() else f"FROM {origin}\n") + lines


def extras_of(target: str) -> set[str]:
    """The extras of pyproject.toml that a target installs."""
    return set(re.findall(r"--extra (\S+)", lines_of(target)))


def test_each_room_has_a_target_and_a_service() -> None:
    """Joiner, learner, ranker, tools and evaluation each have a target and a service that is built from it."""
    for name in TARGETS:
        assert name in targets()
        assert SERVICES[name]["build"]["target"] == name


def test_each_built_service_names_a_target() -> None:
    """Every target that compose builds is in the Dockerfile."""
    assert {one["build"]["target"] for one in SERVICES.values() if "build" in one} <= set(targets())


def test_each_room_runs_itself() -> None:
    """A room's image runs that room, behind the entry point that links kernels and claims a worker's name."""
    for room in ROOMS:
        assert 'ENTRYPOINT ["/thalweg/stack/container.sh"]' in lines_of(room)
        assert lines_of(room).rstrip().endswith(f'CMD ["run", "{room}"]')
        assert SERVICES[room]["command"] == ["run", room]


def test_rooms_and_tools_go_by_one_spec_from_a_folder() -> None:
    """The spec is in a folder of the host that is mounted, by default the clone's; the same for all."""
    for name in ROOMS | {"tools"}:
        assert SERVICES[name]["environment"]["THALWEG_SPEC"] == "/specs/${SPEC:-movielens.toml}"
        assert "${SPECS:-./specs}:/specs:ro" in SERVICES[name]["volumes"]
    assert (REPOSITORY / "specs" / "movielens.toml").exists()


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
    """Kafka and Redis of the rooms are services, at the ports they listen on."""
    for name in ROOMS | {"tools", "topics"}:
        environment = SERVICES[name]["environment"]
        assert environment["THALWEG_KAFKA"] == "kafka:9092"
        assert environment["THALWEG_REDIS"] == "redis://redis:6379/0"


def test_kafka_has_a_listener_for_the_host() -> None:
    """Containers and host reach the broker by listeners of their own, and each is sent back to the address it used."""
    kafka = SERVICES["kafka"]["environment"]
    listeners = dict(one.split("://:") for one in kafka["KAFKA_LISTENERS"].split(","))
    advertised = dict(one.split("://") for one in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    assert advertised == {"PLAINTEXT": "kafka:9092", "HOST": "127.0.0.1:${KAFKA_PORT:-9094}"}
    assert listeners["PLAINTEXT"] == "9092"
    assert SERVICES["kafka"]["ports"] == ["127.0.0.1:${KAFKA_PORT:-9094}:" + listeners["HOST"]]
    protocols = dict(one.split(":") for one in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(protocols) == set(listeners)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_ports_agree(room: str) -> None:
    """A room listens on the port of its health check, published on loopback; on any free one where rooms are scaled."""
    port = SERVICES[room]["environment"][f"THALWEG_{room.upper()}_PORT"]
    assert SERVICES[room]["ports"] == [f"127.0.0.1:{'' if room in SCALED else port}:{port}"]
    assert f"http://127.0.0.1:{port}/readyz" in " ".join(SERVICES[room]["healthcheck"]["test"])


def test_all_are_limited_and_checked() -> None:
    """Every service has a memory limit; every one that stays has a health check and time to end."""
    for name, service in SERVICES.items():
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        if name not in ("topics", "tools", "offline"):
            assert service["healthcheck"]["test"][0] == "CMD", name
            assert service["stop_grace_period"], name


def test_nothing_runs_with_rights_that_it_needs_not() -> None:
    """No service has capabilities or gains privileges; roots are read-only but Kafka's, whose entry point writes."""
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("read_only", False) is (name != "kafka")
    for name in TARGETS:
        assert re.search(r"^USER thalweg$", targets()[name][1], flags=re.MULTILINE), name


def test_no_tag_floats() -> None:
    """Images that aren't built here are named by a version of three numbers."""
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    images += [origin for origin, _ in targets().values() if ":" in origin]
    images.append(DOCKERFILE.splitlines()[0])  # of what reads the Dockerfile
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+(-|$)", image), image


def test_a_refused_room_is_not_started_again() -> None:
    """Rooms restart on failure, and a refusal isn't one; a failed creation of topics ends `up`."""
    for room in ROOMS:
        assert SERVICES[room]["restart"] == "on-failure"
        assert SERVICES[room]["environment"]["THALWEG_REFUSED_EXIT"] == 0
    assert "restart" not in SERVICES["topics"]


def test_up_leaves_topics_as_they_are() -> None:
    """What an operator has set in a topic outlasts `up`."""
    assert SERVICES["topics"]["command"] == ["apply-topics", "--missing"]


def test_state_is_in_named_volumes() -> None:
    """What a service keeps is in a volume with a name, declared once; rooms keep theirs where THALWEG_LOCAL says."""
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in used if name[0] not in "$."} == set(COMPOSE["volumes"])  # those are folders of the host
    for room in ROOMS:
        assert SERVICES[room]["volumes"][0] == f"{room}:/data"
        assert "THALWEG_LOCAL=/data" in lines_of(room)


def test_the_console_asks_the_rooms() -> None:
    """It reads each room at the port where it listens, and is published on the host's loopback alone."""
    console = SERVICES["console"]
    [rooms] = [word.partition("=")[2] for word in console["command"] if word.startswith("--rooms=")]
    assert {one.room: (one.host, one.port) for one in parse_rooms(rooms)} == {
        room: (room, SERVICES[room]["environment"][f"THALWEG_{room.upper()}_PORT"]) for room in ROOMS
    }
    [(address, published)] = [one.rsplit(":", 1) for one in console["ports"]]
    assert address == f"127.0.0.1:{published}"
    assert f"--http=0.0.0.0:{published}" in console["command"]
    assert "--published-on-loopback" in console["command"]
    assert f"http://127.0.0.1:{published}/readyz" in " ".join(console["healthcheck"]["test"])


OBSERVERS = ("prometheus", "grafana")


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers_are_asked_for_and_on_loopback(name: str) -> None:
    """Prometheus and Grafana start with their profile alone, as users without rights; what they read isn't writable."""
    service = SERVICES[name]
    assert service["profiles"] == ["observability"]
    assert service["user"] not in ("root", "0")
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    mounted = [volume.split(":") for volume in service["volumes"] if volume.startswith("./")]
    assert mounted
    for folder, _, mode in mounted:
        assert (REPOSITORY / folder).is_dir()
        assert mode == "ro"


def test_prometheus_scrapes_the_rooms() -> None:
    """Each room's job asks for all instances of the service of its name, at the port where it listens."""
    config = yaml.safe_load((REPOSITORY / "deploy" / "observability" / "prometheus.yml").read_text())
    found = {job["job_name"]: job["dns_sd_configs"] for job in config["scrape_configs"]}
    assert set(found) == ROOMS
    for room, [lookup] in found.items():
        assert lookup["names"] == [room]
        assert lookup["port"] == SERVICES[room]["environment"][f"THALWEG_{room.upper()}_PORT"]


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    """Its data source is the service, with the interval of scrapes; dashboards are read from where they are mounted."""
    folder = REPOSITORY / "deploy" / "observability"
    [source] = yaml.safe_load((folder / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"] is True
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
    [provider] = yaml.safe_load((folder / "provisioning/dashboards/thalweg.yml").read_text())["providers"]
    assert f"./deploy/observability/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]


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
    """Of the rooms, the learner's image alone installs the extra with torch, the joiner's alone the one with Faust."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    with_torch = {name for name, needs in extras.items() if any(need.startswith("torch") for need in needs)}
    assert with_torch == {"learner"}
    assert {name: extras_of(name) for name in TARGETS} == {
        "joiner": {"joiner"},
        "learner": {"learner", "backup"},
        "ranker": {"ranker"},
        "tools": {"tools", "console"},
        "offline": {"learner", "backup", "ranker", "tools", "peers"},
    }


def test_no_room_has_a_jvm() -> None:
    """No image that runs has Java or anything of the system's packages, and none starts from an image with it."""
    for name in TARGETS:
        assert lines_of(name).startswith("FROM python:")
        assert not re.search(r"\b(apt|apt-get|apk|jre|jdk|java|mvn)\b", lines_of(name), flags=re.IGNORECASE)


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
        re.fullmatch(r"(\d+)(mb|m)", text) for text in (options["--maxmemory"], SERVICES["redis"]["mem_limit"])
    )
    assert most is not None
    assert limit is not None
    assert int(most[1]) <= 0.9 * int(limit[1])
    assert options["--maxmemory-policy"] == "noeviction"


def bytes_of(limit: str) -> int:
    """As Docker and Redis read a limit: in powers of 1,024."""
    number, unit = re.fullmatch(r"(\d+)(g|m|mb)", limit).groups()  # type: ignore[union-attr]  # a test's assertion
    return int(number) * (1 << (30 if unit == "g" else 20))


@pytest.mark.parametrize("name", SERVED)
def test_limits_are_what_the_rule_wants(name: str) -> None:
    """Each service has memory for what the bounds of the shipped specs let it take, a retrain among it."""
    spec = load_spec(REPOSITORY / "specs" / f"{name}.toml")
    limits = {name: bytes_of(service["mem_limit"]) for name, service in SERVICES.items()}
    assert learner_needs(spec, Settings()).most <= limits["learner"]
    assert ranker_needs(spec).most <= limits["ranker"]
    assert with_joiner_memory(Settings(), limits["joiner"]).joiner_memory_mb
    options = dict(pairwise(SERVICES["redis"]["command"][1:]))
    redis = RedisMemory(0, bytes_of(options["--maxmemory"]), options["--maxmemory-policy"])
    assert redis_problem(redis, spec) == ""


def test_the_documented_memory_is_the_rules() -> None:
    """docs/containers.md has the sums for specs/store.toml."""
    spec, text = load_spec(REPOSITORY / "specs" / "store.toml"), (REPOSITORY / "docs" / "containers.md").read_text()
    needs, ranker = learner_needs(spec, Settings()), ranker_needs(spec)
    sums = [f"{size // MB:,}" for size in (needs.least, needs.most, ranker.most)]
    assert re.findall(r"\*\*([\d,]+)\*\*", text[: text.index("## Kernels")]) == sums


def test_small_machines_take_the_shipped_specs() -> None:
    """Four gigabytes are enough to start: a retrain at the bounds, which no demo reaches, is warned of alone."""
    for name in SERVED:
        spec = load_spec(REPOSITORY / "specs" / f"{name}.toml")
        assert "during a retrain" in check_bounds("learner", spec, partial(learner_needs, settings=Settings()), SMALL)
        assert check_bounds("ranker", spec, ranker_needs, SMALL) == ""


def test_kernels_are_compiled_in_the_image() -> None:
    """Each image compiles what it runs, for a processor that is named, where the entry point links numba's cache to."""
    for name in TARGETS:
        assert re.search(r"NUMBA_CPU_NAME=x86-64-v3 NUMBA_CPU_FEATURES=\"\"", lines_of(name))
        command = "python -m thalweg.kernels" if name == "offline" else f"python -m thalweg.room_kernels {name}"
        assert f"NUMBA_CACHE_DIR=/opt/kernels {command}\n" in lines_of(name)
        assert "compileall -q ." in lines_of(name)
    for room in ROOMS:
        assert SERVICES[room]["healthcheck"]["start_period"] == "60s"


def run_entry_point(folder: Path, *words: str, cache: Path | None = None) -> subprocess.Popen[str]:
    """Start stack/container.sh with a `thalweg` that prints its environment, then the words, and waits for input."""
    stub = folder / "bin" / "thalweg"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text('#!/bin/sh\necho "$THALWEG_WORKER" "$@"\nread end\n')
    stub.chmod(0o755)
    environment = {
        "PATH": f"{stub.parent}:{os.environ['PATH']}", "THALWEG_LOCAL": str(folder / "data"),
        "NUMBA_CACHE_DIR": str(cache or folder / "cache"), "KERNELS": str(folder / "kernels"),
    }  # fmt: skip
    command = [str(REPOSITORY / "stack" / "container.sh"), *words]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="flock and cp as in the images")
def test_containers_of_one_volume_have_names_of_their_own(tmp_path: Path) -> None:
    """Each takes a name that no running one has, and one that ends leaves its name to the next."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "one.nbi").write_text("compiled")
    (tmp_path / "data" / "workers").mkdir(parents=True)
    for number, name in enumerate("ab"):
        (tmp_path / "data" / "workers" / str(number)).write_text(name)

    def named(container: "subprocess.Popen[str]") -> str:
        assert container.stdout is not None
        return container.stdout.readline().rstrip()

    caches = tmp_path / "one", tmp_path / "other"  # in a container's own /tmp
    first, second = (run_entry_point(tmp_path, "run", "ranker", cache=cache) for cache in caches)
    names = named(first), named(second)
    assert set(names) == {"a run ranker", "b run ranker"}
    first.communicate("end")
    third = run_entry_point(tmp_path, "run", "ranker")
    assert named(third) == names[0]
    for one in (second, third):
        one.communicate("end")
    assert [(cache / "one.nbi").read_text() for cache in caches] == ["compiled"] * 2


def test_one_kafka_version() -> None:
    """Compose runs the Kafka that the local stack runs."""
    version = re.search(r"<kafka.version>(.*)</kafka.version>", POM)
    assert version is not None
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version[1]}"


def test_python_is_one_that_the_project_takes() -> None:
    """The images' Python is within requires-python, and the one that these tests run on."""
    version = re.search(r"^FROM python:3\.(\d+)\.\d+-slim", DOCKERFILE, flags=re.MULTILINE)
    assert version is not None
    assert int(version[1]) == TESTED_PYTHON
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
    named = {shlex.split(line)[0] for line in re.findall(r"--rm (?:tools|offline) ([a-z].*)", text)} | {"run"}
    named |= {SERVICES["topics"]["command"][0]}
    assert named <= known
