"""The Helm chart's values: settings that rooms take, secrets in Secrets, memory by the rule, refusals that help."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from learner.memory import learner_needs
from ranker.http.tokens import Tokens, check_exposure
from ranker.memory import ranker_needs
from stream.runtime.memory import with_joiner_memory
from stream.runtime.settings import Settings
from stream.spec.spec_file import load_spec
from tests.support.helm import (
    CHART,
    RELEASE,
    SPEC,
    VARIANTS,
    Object,
    container_of,
    environment_of,
    helm,
    needs_helm,
    of_kind,
    pods,
    refusal,
    rendered,
    variants,
)
from thalweg.stack.broker import REPOSITORY

pytestmark = needs_helm
TOKEN = '[shop]\ntoken = "0123456789abcdef"\nscopes = ["rank"]\n'


def bytes_of(quantity: str) -> int:
    """As Kubernetes reads Mi and Gi."""
    return int(quantity[:-2]) << {"Mi": 20, "Gi": 30}[quantity[-2:]]


@variants
def test_variables_are_settings(objects: tuple[Object, ...], monkeypatch: pytest.MonkeyPatch, local: Path) -> None:
    """A room starts with them: each is a setting, once, with a value that it takes; the worker is the pod's name."""
    for workload in pods(objects).values():
        entries = container_of(workload)["env"]
        assert len({one["name"] for one in entries}) == len(entries)
        [worker] = [one["valueFrom"] for one in entries if one["name"] == "THALWEG_WORKER"]
        assert worker == {"fieldRef": {"fieldPath": "metadata.name"}}
        with monkeypatch.context() as patched:
            for one in entries:
                patched.setenv(one["name"], one.get("value", workload["metadata"]["name"] + "-0"))
            assert Settings.load(with_stack=False).kafka == "kafka-0.kafka:9092,kafka-1.kafka:9093"


def test_numbers_are_written_in_digits(tmp_path: Path) -> None:
    """Helm reads a number of a file as a float; a room gets no `1e+06`. Zero and false are values, too."""
    file = tmp_path / "values.yaml"
    file.write_text("settings: {dedup_ids: 1000000, joiner_poison_s: 0, joiner_outage_grace_s: 0.5}\n")
    variables = environment_of(pods(rendered(str(file)))["joiner"])
    assert variables["THALWEG_DEDUP_IDS"] == "1000000"
    assert (variables["THALWEG_JOINER_POISON_S"], variables["THALWEG_JOINER_OUTAGE_GRACE_S"]) == ("0", "0.5")


def test_secrets_are_in_secrets_alone() -> None:
    """No other object has a value of a secret or a token, and only those that need a token get it."""
    objects = rendered(*VARIANTS["everything"])
    assert [one["kind"] for one in objects if "geheim" in json.dumps(one)] == ["Secret"] * 3
    for room, workload in pods(objects).items():
        names = {one["name"] for one in container_of(workload)["env"] if "secretKeyRef" in one.get("valueFrom", {})}
        assert ("THALWEG_HTTP_TOKEN" in names) is (room == "console")
        assert {"THALWEG_KAFKA_PASSWORD", "THALWEG_REDIS_PASSWORD"} <= names
        mounted = {one["name"] for one in container_of(workload)["volumeMounts"]}
        assert ("tokens" in mounted) is (room in ("ranker", "console"))


SECRET = [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]


@pytest.mark.parametrize("name", SECRET)
def test_each_secret_setting_is_refused_among_the_others(name: str) -> None:
    """Pods' specifications are read by many; what to use is said."""
    assert f"settings.{name} is a secret" in refusal(f"settings.{name}=x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("settings.kafka=", "settings.kafka is empty: set the bootstrap servers"),
        ("settings.redis=", "settings.redis is empty: set Redis' URL"),
        ("settings.redis=redis://:a@b:6379", "settings.redis has a login in it, which whoever reads pods would see"),
        ("settings.redis=redis://b:6379/0?password=a", "settings.redis has a login in it"),
        ("settings.worker=a", "settings.worker: the chart sets it itself, .* remove it"),
        ("tokens.existingSecret=", "there are no tokens: .*tokens.content=tokens.toml; or ranker.http.enabled=false"),
        ("ranker.autoscaling.enabled=true,ranker.autoscaling.cpuPercent=0", "autoscaling is enabled by nothing: set"),
        ("ranker.autoscaling.enabled=true,ranker.autoscaling.minReplicas=5", "minReplicas is above .maxReplicas"),
        ("joiner.replicsa=2", "additional properties 'replicsa' not allowed"),
        ("learner.replicas=2", "additional properties 'replicas' not allowed"),
        ("spec=", "there is no spec: --set-file spec=shop.toml"),
    ],
)
def test_wrong_values_are_refused(value: str, message: str) -> None:
    """Before anything is installed, with what to do."""
    assert re.search(message, refusal(value, spec=not value.startswith("spec")))


def test_what_the_chart_sets_is_settings() -> None:
    """The names that it refuses are settings, and all that it sets in a room but what `settings` gives is refused."""
    [text] = re.findall(r'\$owned := list ((?:"\w+" ?)+)', (CHART / "templates" / "_helpers.tpl").read_text())
    owned = set(re.findall(r"\w+", text))
    assert owned <= set(Settings.model_fields)
    given = yaml.safe_load((CHART / "values.yaml").read_text())["settings"]
    for workload in pods(rendered("console.enabled=true")).values():
        names = {name.removeprefix("THALWEG_").lower() for name in environment_of(workload)}
        assert names - set(given) <= owned


@pytest.mark.parametrize("name", ["movielens", "store"])
def test_limits_are_what_the_rule_wants(name: str) -> None:
    """Each room has memory for what the bounds of the shipped specs let it take, all of it requested."""
    spec = load_spec(REPOSITORY / "specs" / f"{name}.toml")
    limits = {}
    for room, workload in pods(rendered("console.enabled=true")).items():
        resources = container_of(workload)["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert "cpu" in resources["requests"]
        limits[room] = bytes_of(resources["limits"]["memory"])
    assert learner_needs(spec, Settings()).most <= limits["learner"]
    assert ranker_needs(spec).most <= limits["ranker"]
    assert with_joiner_memory(Settings(), limits["joiner"]).joiner_memory_mb


def test_rankers_are_called_by_their_service() -> None:
    """HTTP listens for others, with tokens, and takes the Service's names as hosts."""
    objects = rendered("ranker.http.hosts[0]=rank.example")
    variables = environment_of(pods(objects)["ranker"])
    assert variables["THALWEG_RANKER_HTTP"] == "0.0.0.0:8080"
    name = "shop-thalweg-ranker"
    assert variables["THALWEG_HTTP_HOSTS"].split(",") == [
        name, f"{name}.ranking", f"{name}.ranking.svc", f"{name}.ranking.svc.cluster.local", "rank.example"
    ]  # fmt: skip
    assert name in of_kind(objects, "Service")


def test_tokens_are_ones_that_a_ranker_takes(tmp_path: Path) -> None:
    """The file of the Secret is read as it is given, and lets the ranker listen for others."""
    given, read = tmp_path / "given.toml", tmp_path / "read.toml"
    given.write_text(TOKEN)
    done = helm("template", *RELEASE, *SPEC, "--set", "tokens.existingSecret=", "--set-file", f"tokens.content={given}")
    secret = of_kind(tuple(filter(None, yaml.safe_load_all(done.stdout))), "Secret")["shop-thalweg-tokens"]
    read.write_text(secret["stringData"]["tokens.toml"])
    check_exposure("0.0.0.0", Tokens(read, lambda: 0.0))


def test_the_spec_is_read_as_it_is_given(tmp_path: Path) -> None:
    """The ConfigMap has the file's text; a changed spec makes new pods."""
    text = of_kind(rendered(), "ConfigMap")["shop-thalweg-spec"]["data"]["spec.toml"]
    (tmp_path / "spec.toml").write_text(text)
    assert load_spec(tmp_path / "spec.toml") == load_spec(REPOSITORY / "specs" / "store.toml")

    def noted(objects: tuple[Object, ...]) -> Any:
        return pods(objects)["learner"]["spec"]["template"]["metadata"]["annotations"]["checksum/spec"]

    other = rendered("spec=name = 'other'", spec=False)
    assert noted(rendered()) != noted(other)
