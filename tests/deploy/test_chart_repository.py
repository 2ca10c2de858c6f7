"""The Helm chart beside the rest of the repository: versions, images, rules, dashboards, the console's addresses."""

import re
import tomllib

import pytest
import yaml

from tests.support.helm import CHART, Object, container_of, needs_helm, of_kind, pod_of, pods, rendered
from thalweg.console.rooms import parse_rooms
from thalweg.stack.broker import REPOSITORY

pytestmark = needs_helm
OBSERVABILITY = REPOSITORY / "deploy" / "observability"


def observed() -> tuple[Object, ...]:
    """With all that Prometheus and Grafana read."""
    return rendered(*(f"observability.{name}.enabled=true" for name in ("serviceMonitor", "rules", "dashboards")))


def test_the_version_is_the_projects() -> None:
    """Image tags are the release's by default."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == version
    assert re.sub(r"[-.]dev\.?", ".dev", chart["version"]) == version
    assert container_of(pods(rendered())["ranker"])["image"] == f"thalweg-ranker:{version}"


def test_images_are_targets() -> None:
    """Each image is a target of the Dockerfile, from one registry; a room may name another."""
    found = pods(rendered("console.enabled=true", "image.registry=registry.example/team", "image.tag=v7"))
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (REPOSITORY / "Dockerfile").read_text(), re.M))
    images = {room: container_of(one)["image"] for room, one in found.items()}
    for image in images.values():
        [target] = re.findall(r"^registry\.example/team/thalweg-(\w+):v7$", image)
        assert target in targets
    assert {room: image.split("-")[-1] for room, image in images.items()} == {
        **{room: f"{room}:v7" for room in ("joiner", "learner", "ranker")}, "console": "tools:v7", "topics": "tools:v7",
    }  # fmt: skip
    assert container_of(pods(rendered("ranker.image=mine@sha256:0"))["ranker"])["image"] == "mine@sha256:0"


@pytest.mark.parametrize("room", ["joiner", "learner", "ranker"])
def test_stops_are_as_long_as_in_compose(room: str) -> None:
    """The learner has time for its last checkpoint; a room is what its image runs."""
    service = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"][room]
    workload = pods(rendered())[room]
    assert f"{pod_of(workload)['terminationGracePeriodSeconds']}s" == service["stop_grace_period"]
    assert container_of(workload)["args"] == service["command"]


def test_rules_are_those_of_the_repository() -> None:
    """The operator gets all recording rules and alerts."""
    [made] = of_kind(observed(), "PrometheusRule").values()
    assert made["spec"] == yaml.safe_load((OBSERVABILITY / "rules.yml").read_text())


def test_dashboards_are_those_of_the_repository() -> None:
    """Grafana's sidecar gets each file as it is."""
    made = of_kind(observed(), "ConfigMap")["shop-thalweg-dashboards"]
    files = {f"thalweg-{file.name}": file.read_text() for file in (OBSERVABILITY / "dashboards").iterdir()}
    assert made["data"] == files
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_prometheus_scrapes_each_room_once() -> None:
    """Its operator finds the headless Service of each room, and names the job after the room, as rules want."""
    [monitor] = of_kind(observed(), "ServiceMonitor").values()
    selector = monitor["spec"]["selector"]["matchLabels"].items()
    [endpoint] = monitor["spec"]["endpoints"]
    jobs = [
        one["metadata"]["labels"][monitor["spec"]["jobLabel"]]
        for one in of_kind(observed(), "Service").values()
        if selector <= one["metadata"]["labels"].items()
        and endpoint["port"] in {port["name"] for port in one["spec"]["ports"]}
    ]
    assert sorted(jobs) == ["joiner", "learner", "ranker"]


def test_the_console_asks_the_rooms() -> None:
    """It reads all instances of each room, asks rankers by their Service, and listens on its pod's loopback alone."""
    objects = rendered("console.enabled=true")
    services = of_kind(objects, "Service")
    command, *words = container_of(pods(objects)["console"])["args"]
    options = dict(word.removeprefix("--").split("=", 1) for word in words)
    assert command == "console"
    assert {*options} == {"http", "rooms", "ranker"}
    for one in parse_rooms(options["rooms"]):
        service = services[one.host]["spec"]
        assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
        assert service["selector"]["app.kubernetes.io/component"] == one.room
        assert [port["port"] for port in service["ports"]] == [one.port]
    host, port = options["ranker"].split(":")
    assert services[host]["spec"]["ports"][0]["port"] == int(port)
    assert options["http"] == "127.0.0.1:9104"
    assert f"http://{options['http']}/readyz" in " ".join(
        container_of(pods(objects)["console"])["livenessProbe"]["exec"]["command"]
    )
    assert not any(one["spec"]["selector"]["app.kubernetes.io/component"] == "console" for one in services.values())


def test_callers_are_let_in() -> None:
    """Of the release itself only the console calls rooms; metrics and HTTP are open to the peers that values name."""
    peer = "networkPolicy.httpFrom[0].ipBlock.cidr=10.0.0.0/8"
    policies = of_kind(rendered(peer), "NetworkPolicy")
    health, http = policies["shop-thalweg-ranker"]["spec"]["ingress"]
    assert http["from"][1:] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    assert http["ports"] == [{"port": "http", "protocol": "TCP"}]
    assert health["from"][1:] == [{"namespaceSelector": {}}]
    for rule in (health, http):
        assert rule["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "console"
    whole = policies["shop-thalweg"]["spec"]
    assert "ingress" not in whole
    assert {port["port"] for rule in whole["egress"] for port in rule.get("ports", ())} == {53, 9092, 9093, 6379}


def test_the_learner_alone_may_write_backups() -> None:
    """S3's variables come from a Secret; its port is open."""
    objects = rendered("settings.backup=s3://bucket/prefix", "learner.backupSecret=theirs")
    given = {room: container_of(one).get("envFrom") for room, one in pods(objects).items()}
    assert {room for room, one in given.items() if one} == {"learner"}
    assert given["learner"] == [{"secretRef": {"name": "theirs"}}]
    whole = of_kind(objects, "NetworkPolicy")["shop-thalweg"]["spec"]
    assert 443 in {port["port"] for rule in whole["egress"] for port in rule.get("ports", ())}
