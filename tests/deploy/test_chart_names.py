"""The Helm chart's names, ports and variables at their limits: what Kubernetes would refuse, or read otherwise."""

import pytest
import yaml

from tests.support.helm import (
    RELEASE,
    SPEC,
    VARIANTS,
    Object,
    environment_of,
    helm,
    needs_helm,
    of_kind,
    pods,
    rendered,
)

pytestmark = needs_helm
REVISION = "-0123456789"  # what Kubernetes appends to a StatefulSet's name, in a label of its pods
LABEL_MAX = 63


def released(name: str) -> tuple[Object, ...]:
    """All objects of a release of this name, with everything switched on."""
    values = (word for value in VARIANTS["everything"] for word in ("--set", value))
    done = helm("template", name, *RELEASE[1:], *SPEC, *values)
    assert done.returncode == 0, done.stderr
    return tuple(one for one in yaml.safe_load_all(done.stdout) if one)


@pytest.mark.parametrize("release", ["a" * 53, "thalweg-" + "a" * 45])
def test_long_names_fit_into_labels(release: str) -> None:
    """A StatefulSet's with its revision; a Service's, which is a label of DNS."""
    objects = released(release)
    assert all(len(name + REVISION) <= LABEL_MAX for name in of_kind(objects, "StatefulSet"))
    assert all(len(name) <= LABEL_MAX for name in of_kind(objects, "Service", "Job"))


@pytest.mark.parametrize("release", ["shop.eu", "2nd"])
def test_a_name_that_no_service_can_have_is_refused(release: str) -> None:
    """Helm takes it, and Kubernetes would refuse it halfway."""
    done = helm("template", release, *RELEASE[1:], *SPEC)
    assert f"the release's name {release} can't be a Service's: begin it with a letter" in done.stderr


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        ((), {9092, 9093, 6379}),
        (("settings.redis=redis://redis",), {9092, 9093, 6379}),
        (("settings.kafka=[fd00:0::1]:09092", "settings.redis=rediss://[fd00:0:0::5]:7000/0"), {9092, 7000}),
        (("settings.redis=redis+cluster://a\\,b:7000",), {9092, 9093, 6379, 7000}),
        (("settings.redis=redis+sentinel://a\\,b:26380/main/0",), {9092, 9093, 26379, 26380, 6379}),
        (("settings.kafka_oauth_url=https://idp/token",), {9092, 9093, 6379, 443}),
        (("settings.kafka_oauth_url=https://idp:8443/token",), {9092, 9093, 6379, 8443}),
        (("settings.kafka_oauth_url=file:///certificates/token",), {9092, 9093, 6379}),
    ],
)
def test_pods_may_call_what_settings_name(values: tuple[str, ...], ports: set[int]) -> None:
    """Kafka, Redis, the master behind Sentinels, the token endpoint: the rooms, and the job that makes topics."""
    policies = of_kind(rendered(*values, "networkPolicy.egressPorts[0]=9092"), "NetworkPolicy")
    for name in ("shop-thalweg", "shop-thalweg-topics"):
        _, dns, others = policies[name]["spec"]["egress"]
        assert {one["port"] for one in dns["ports"]} == {53}
        assert {one["port"] for one in others["ports"]} == ports
        assert len(others["ports"]) == len(ports)


def test_kubernetes_replaces_nothing_in_values() -> None:
    """It reads `$$` as `$`, and `$(NAME)` as a variable."""
    variables = environment_of(pods(rendered("settings.kafka_user=a$$b$(THALWEG_HOST)"))["joiner"])
    assert variables["THALWEG_KAFKA_USER"] == "a$$$$b$$(THALWEG_HOST)"
