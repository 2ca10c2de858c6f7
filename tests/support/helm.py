"""Helm's rendering of the chart, and the schemas of Kubernetes, for tests."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from stack.chart_tools import HELM, SCHEMAS
from thalweg.stack.broker import REPOSITORY

CHART = REPOSITORY / "deploy" / "helm" / "thalweg"
RELEASE = ["shop", str(CHART), "--namespace", "ranking", "-f", str(CHART / "ci" / "values.yaml")]
SPEC = ["--set-file", f"spec={REPOSITORY / 'specs' / 'store.toml'}"]
VARIANTS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "everything": (
        "console.enabled=true", "ranker.autoscaling.enabled=true", "ranker.autoscaling.lagMetric=lag",
        "observability.serviceMonitor.enabled=true", "observability.rules.enabled=true",
        "observability.dashboards.enabled=true", "secrets.values.kafka_password=geheim",
        "secrets.values.http_token=geheim", "certificates.values.ca\\.pem=pem", "tokens.existingSecret=",
        "tokens.content=geheim", "serviceAccountName=mine", "nodeSelector.disk=ssd", "podLabels.team=ranking",
        "podAnnotations.team=ranking", "image.pullSecrets[0].name=pull", "learner.storage.className=fast",
        "settings.backup=s3://bucket/prefix", "learner.backupSecret=theirs",
        "networkPolicy.egressPorts[0]=9999", "ranker.http.hosts[0]=rank.example", "tolerations[0].operator=Exists",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight=1",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchFields[0].key=a",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchFields[0].operator=In",
    ),
    "Kafka alone, secrets of others": (
        "ranker.http.enabled=false", "tokens.existingSecret=", "secrets.existingSecret=theirs", "topics.enabled=false",
        "certificates.existingSecret=theirs", "networkPolicy.enabled=false", "disruptionBudget.enabled=false",
        "specConfigMap=theirs", "listen=::",
    ),
}  # fmt: skip
variants = pytest.mark.parametrize(
    "objects", [pytest.param(values, id=name) for name, values in VARIANTS.items()], indirect=True
)
CRDS = {"ServiceMonitor", "PrometheusRule"}  # of Prometheus' operator: Kubernetes has no schema of theirs
Object = dict[str, Any]
_FOUND = str(HELM) if HELM.exists() else shutil.which("helm")
needs_helm = pytest.mark.skipif(
    not _FOUND or not all(path.exists() for path in SCHEMAS.values()),
    reason="needs Helm and Kubernetes' schemas: python stack/chart_tools.py; not on Linux on x86-64: install Helm, too",
)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm."""
    assert _FOUND is not None
    return subprocess.run([_FOUND, *arguments], capture_output=True, text=True)


@cache
def rendered(*values: str, spec: bool = True) -> tuple[Object, ...]:
    """All objects of an installation with these values (KEY=VALUE, or a file). They are shared: change none."""
    found = [word for value in values for word in ("-f" if Path(value).is_file() else "--set", value)]
    done = helm("template", *RELEASE, *(SPEC if spec else ()), *found)
    assert done.returncode == 0, done.stderr
    return tuple(one for one in yaml.safe_load_all(done.stdout) if one)


def refusal(*values: str, spec: bool = True) -> str:
    """What Helm says of values that the chart refuses."""
    done = helm("template", *RELEASE, *(SPEC if spec else ()), *(word for value in values for word in ("--set", value)))
    assert done.returncode != 0
    return done.stderr


def name_of(one: Object) -> str:
    """Kind and name."""
    return f"{one['kind']}/{one['metadata']['name']}"


def of_kind(objects: tuple[Object, ...], *kinds: str) -> dict[str, Object]:
    """The objects of these kinds, by name."""
    return {one["metadata"]["name"]: one for one in objects if one["kind"] in kinds}


def pods(objects: tuple[Object, ...]) -> dict[str, Object]:
    """What makes pods, by component: its whole object."""
    found = of_kind(objects, "Deployment", "StatefulSet", "Job").values()
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in found}


def pod_of(workload: Object) -> Object:
    """A workload's pod specification."""
    made: Object = workload["spec"]["template"]["spec"]
    return made


def container_of(workload: Object) -> Object:
    """A workload's only container."""
    [made] = pod_of(workload)["containers"]
    found: Object = made
    return found


def environment_of(workload: Object) -> dict[str, str]:
    """The variables of a workload's container that have a value in the specification."""
    return {one["name"]: one["value"] for one in container_of(workload)["env"] if "value" in one}


@cache
def definitions(version: str) -> Object:
    """The schemas of a version of Kubernetes; unknown fields are errors."""
    found: Object = json.loads(SCHEMAS[version].read_bytes())
    return found


@cache
def validator(version: str, kind: str) -> jsonschema_rs.Validator:
    """The schema of a kind, as `apps/v1/Deployment`."""
    whole = definitions(version)
    group, _, rest = kind.rpartition("/")[0].rpartition("/")
    wanted = {"group": group, "version": rest, "kind": kind.rpartition("/")[2]}
    [name] = [name for name, one in whole["$defs"].items() if wanted in one.get("x-kubernetes-group-version-kind", ())]
    return jsonschema_rs.validator_for(whole | {"$ref": f"#/$defs/{name}"})


def problems(version: str, one: Object) -> Iterator[str]:
    """What Kubernetes' API would refuse in an object, by its schema."""
    for error in validator(version, f"{one['apiVersion']}/{one['kind']}").iter_errors(one):
        yield f"{name_of(one)} {error.instance_path}: {error.message}"
