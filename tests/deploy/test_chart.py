"""The Helm chart, as Helm renders it: valid objects of Kubernetes that agree with each other."""

import json
from itertools import chain
from pathlib import Path

import pytest

from tests.support.helm import (
    CRDS,
    RELEASE,
    SPEC,
    VARIANTS,
    Object,
    container_of,
    environment_of,
    helm,
    name_of,
    needs_helm,
    of_kind,
    pod_of,
    pods,
    problems,
    rendered,
    variants,
)
from thalweg.stack.broker import REPOSITORY

pytestmark = needs_helm
ROOMS = {"joiner", "learner", "ranker"}


def labels_of(workload: Object) -> dict[str, str]:
    """The labels of a workload's pods."""
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def selected(objects: tuple[Object, ...], selector: dict[str, str]) -> list[Object]:
    """The workloads whose pods a selector matches."""
    return [one for one in pods(objects).values() if selector.items() <= labels_of(one).items()]


def test_helm_finds_no_fault() -> None:
    """By its own linter, where a warning is one."""
    done = helm("lint", "--strict", *RELEASE[1:], *SPEC)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@variants
def test_objects_are_kubernetes_own(objects: tuple[Object, ...], version: str) -> None:
    """Each object is one of the oldest and the newest Kubernetes, without a field that it doesn't know."""
    checked = [one for one in objects if one["kind"] not in CRDS]
    assert len(checked) >= 6
    assert list(chain.from_iterable(problems(version, one) for one in checked)) == []
    assert len({name_of(one) for one in objects}) == len(objects)
    assert {one["metadata"]["namespace"] for one in objects} == {"ranking"}


def test_a_wrong_field_would_be_found() -> None:
    """The schemas refuse what Kubernetes doesn't know, in depth."""
    wrong = json.loads(json.dumps(pods(rendered())["ranker"]))
    container_of(wrong)["livenessProbe"]["httpGet"]["prot"] = 1
    assert [*problems("1.37", wrong)]


def test_each_switch_adds_and_removes() -> None:
    """What is off by default comes when it is on, and nothing stays of what is switched off."""
    kinds = {name: sorted(name_of(one) for one in rendered(*values)) for name, values in VARIANTS.items()}
    whole, few = {*kinds["everything"]}, {*kinds["Kafka alone, secrets of others"]}
    assert whole - {*kinds["as it is"]} == {
        "Deployment/shop-thalweg-console", "HorizontalPodAutoscaler/shop-thalweg-ranker",
        "ServiceMonitor/shop-thalweg", "PrometheusRule/shop-thalweg", "ConfigMap/shop-thalweg-dashboards",
        *(f"Secret/shop-thalweg-{name}" for name in ("secrets", "certificates", "tokens")),
        *(f"Secret/shop-thalweg-topics-{name}" for name in ("secrets", "certificates")),
    }  # fmt: skip
    assert few == {
        "StatefulSet/shop-thalweg-joiner", "StatefulSet/shop-thalweg-learner", "Deployment/shop-thalweg-ranker",
        *(f"Service/shop-thalweg-{name}" for name in ("joiner", "learner", "rankers")),
    }  # fmt: skip
    assert {*kinds["as it is"]} - few >= {"Job/shop-thalweg-topics", "NetworkPolicy/shop-thalweg"}


@variants
def test_pods_have_no_rights(objects: tuple[Object, ...]) -> None:
    """As Pod Security's `restricted` wants, with a read-only root, no token of the API and no service links."""
    for workload in pods(objects).values():
        pod, container = pod_of(workload), container_of(workload)
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert pod["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
    assert "useradd --uid 10001 " in (REPOSITORY / "Dockerfile").read_text()


@variants
def test_selectors_match(objects: tuple[Object, ...]) -> None:
    """Each selects the pods that it is for, and no component selects another's."""
    for one in pods(objects).values():
        if one["kind"] != "Job":
            assert selected(objects, one["spec"]["selector"]["matchLabels"]) == [one]
    services = of_kind(objects, "Service")
    for service in services.values():
        [one] = selected(objects, service["spec"]["selector"])
        assert one["metadata"]["labels"]["app.kubernetes.io/component"] in service["metadata"]["name"]
    for one in of_kind(objects, "StatefulSet").values():
        assert services[one["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"
    for one in of_kind(objects, "PodDisruptionBudget").values():
        assert len(selected(objects, one["spec"]["selector"]["matchLabels"])) == 1
    for one in of_kind(objects, "NetworkPolicy").values():
        assert selected(objects, one["spec"]["podSelector"]["matchLabels"])
    for one in of_kind(objects, "HorizontalPodAutoscaler").values():
        target = one["spec"]["scaleTargetRef"]
        assert f"{target['kind']}/{target['name']}" in map(name_of, objects)


@variants
def test_ports_exist(objects: tuple[Object, ...]) -> None:
    """Probes, Services and policies name ports of the container; health is where the room's setting says."""
    named = {
        name: {port["name"]: port["containerPort"] for port in container_of(one).get("ports", ())}
        for name, one in pods(objects).items()
    }
    for room in ROOMS:
        container, variables = container_of(pods(objects)[room]), environment_of(pods(objects)[room])
        assert variables[f"THALWEG_{room.upper()}_PORT"] == str(named[room]["health"])
        asked = {probe: container[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
        assert {one["port"] for one in asked.values()} == {"health"}
        assert [asked[probe]["path"] for probe in asked] == ["/livez", "/livez", "/readyz"]
        assert variables["THALWEG_HOST"] in ("0.0.0.0", "::")
    for service in of_kind(objects, "Service").values():
        [workload] = selected(objects, service["spec"]["selector"])
        for port in service["spec"]["ports"]:
            assert named[labels_of(workload)["app.kubernetes.io/component"]][port["targetPort"]] == port["port"]
    for policy in of_kind(objects, "NetworkPolicy").values():
        [*workloads] = selected(objects, policy["spec"]["podSelector"]["matchLabels"])
        for port in (port for rule in policy["spec"].get("ingress", ()) for port in rule["ports"]):
            assert all(port["port"] in named[labels_of(one)["app.kubernetes.io/component"]] for one in workloads)


@variants
def test_volumes_are_mounted(objects: tuple[Object, ...]) -> None:
    """Each volume is mounted and each mount has a volume; ConfigMaps and Secrets are there, or somebody else's."""
    ours = {name_of(one) for one in objects} | {"ConfigMap/theirs", "Secret/theirs", "Secret/thalweg-http-tokens"}
    for room, workload in pods(objects).items():
        volumes = {one["name"]: one for one in pod_of(workload)["volumes"]}
        claims = [one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", ())]
        mounts = {one["name"]: one["mountPath"] for one in container_of(workload)["volumeMounts"]}
        assert {*volumes, *claims} == {*mounts}
        assert mounts["tmp"] == "/tmp"  # numba's cache is linked there
        assert claims == (["data"] if room in ("joiner", "learner") else [])
        used = {f"ConfigMap/{one['configMap']['name']}" for one in volumes.values() if "configMap" in one}
        used |= {f"Secret/{one['secret']['secretName']}" for one in volumes.values() if "secret" in one}
        refs = [one["valueFrom"].get("secretKeyRef") for one in container_of(workload)["env"] if "valueFrom" in one]
        used |= {f"Secret/{one['name']}" for one in refs if one}
        assert used <= ours
        variables = environment_of(workload)
        assert variables["THALWEG_LOCAL"] == mounts["data"]
        if room != "topics":
            assert str(Path(variables["THALWEG_SPEC"]).parent) == mounts["spec"]
        if "THALWEG_HTTP_TOKENS" in variables:
            assert variables["THALWEG_HTTP_TOKENS"] == mounts["tokens"] + "/tokens.toml"


def test_replicas_are_the_autoscalers() -> None:
    """Where one scales, the Deployment says no number, else each upgrade would reset it; the learner is always one."""
    assert pods(rendered())["ranker"]["spec"]["replicas"] == 2
    by_cpu = rendered("ranker.autoscaling.enabled=true")
    assert "replicas" not in pods(by_cpu)["ranker"]["spec"]
    [scaler] = of_kind(by_cpu, "HorizontalPodAutoscaler").values()
    assert [one["type"] for one in scaler["spec"]["metrics"]] == ["Resource"]
    lag = "ranker.autoscaling.enabled=true", "ranker.autoscaling.cpuPercent=0", "ranker.autoscaling.lagMetric=lag"
    [scaler] = of_kind(rendered(*lag), "HorizontalPodAutoscaler").values()
    [metric] = scaler["spec"]["metrics"]
    assert metric["external"]["metric"] == {"name": "lag"}
    assert pods(by_cpu)["learner"]["spec"]["replicas"] == 1
    assert not any("learner" in name for name in of_kind(by_cpu, "PodDisruptionBudget"))


def test_topics_come_before_all_else() -> None:
    """What the job reads is made before it, by hooks of an earlier weight that go with it; it has no spec."""
    objects = rendered(*VARIANTS["everything"])
    hooks = {
        name_of(one): int(one["metadata"]["annotations"].get("helm.sh/hook-weight", 0))
        for one in objects
        if "pre-install,pre-upgrade" in one["metadata"].get("annotations", {}).get("helm.sh/hook", "")
    }
    job = pods(objects)["topics"]
    assert hooks == {
        "Job/shop-thalweg-topics": 0, "Secret/shop-thalweg-topics-secrets": -1,
        "Secret/shop-thalweg-topics-certificates": -1, "NetworkPolicy/shop-thalweg-topics": -1,
    }  # fmt: skip
    read = {one["valueFrom"]["secretKeyRef"]["name"] for one in container_of(job)["env"] if "secretKeyRef" in str(one)}
    read |= {one["secret"]["secretName"] for one in pod_of(job)["volumes"] if "secret" in one}
    assert {f"Secret/{name}" for name in read} == {name for name in hooks if name.startswith("Secret/")}
    [policy] = [one for one in objects if name_of(one) == "NetworkPolicy/shop-thalweg-topics"]
    assert selected(objects, policy["spec"]["podSelector"]["matchLabels"]) == [job]
    assert container_of(job)["args"] == ["apply-topics", "--missing"]
