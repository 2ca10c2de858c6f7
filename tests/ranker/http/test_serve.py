"""A whole ranker, asked over HTTP: the same answers as over the log."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from ranker.http.serve import serve_http
from ranker.serving.served_model import ModelSource
from ranker.serving.service import RankerService
from stream.events.codec import decode_entity
from stream.events.named_explanations import Explanation
from stream.events.topics import NAMES
from stream.events.types import FeatureName, RankRequest
from stream.log.protocol import START
from stream.runtime.errors import SettingsError
from stream.runtime.settings import Settings
from stream.snapshots.memory_store import MemoryStore
from tests.support.memory_ranker import Whole, nobody_has_anything
from tests.support.random_models import items
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    """One for all tests."""
    made = Whole(Settings())
    try:
        wait_until(lambda: made.client.get("/readyz").text == "ready (version 1)\n")
        yield made
    finally:
        made.end()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{made.http.address}/livez")


def test_the_answer_is_that_of_the_log(whole: Whole) -> None:
    """Items, scores, version and features, for retrieved candidates and for named ones."""
    time_ms = 1_700_000_000_000
    for n, candidates in enumerate([None, ["i3", "i1", "unknown"]]):
        asked: dict[str, Any] = {"request_id": f"r{n}", "user": "unknown user", "k": 5, "time_ms": time_ms}
        http = whole.client.post("/v1/rank", json=asked | ({"candidates": candidates} if candidates else {}))
        assert http.status_code == 200
        answer, reply = http.json(), whole.over_the_log(RankRequest(**asked, candidates=candidates))
        for field in ("request_id", "user", "items", "scores", "version", "scored", "notes", "time_ms"):
            assert answer[field] == getattr(reply, field), field
        assert base64.b64decode(answer["features"]) == reply.features
        assert answer["version"] == 1
        assert len(answer["items"]) == (3 if candidates else 5)


def test_models_and_items_are_shown(whole: Whole) -> None:
    """The live version of the model, and what is known of an item; of others nothing."""
    (model,) = whole.client.get("/v1/models").json()
    assert (model["model"], model["version"]) == ("m", 1)
    first = items(30)[0]
    assert whole.client.get(f"/v1/items/{first.item}").json()["attributes"] == first.attributes
    assert whole.client.get("/v1/items/nothing").status_code == 404
    assert whole.client.post("/v1/rank", json={"user": "u", "model": "other"}).status_code == 404


def test_a_page_is_explained(whole: Whole) -> None:
    """The page that a request would get now, item by item, or one item, on it or not; but no item that isn't known."""
    time_ms = 1_700_000_000_000
    ranked = whole.client.post("/v1/rank", json={"user": "u", "k": 3, "context": {"device": "x"}, "time_ms": time_ms})
    page = whole.client.get("/v1/explain?user=u&k=3&context.device=x").json()
    assert (page["user"], page["model"], page["version"], len(page["items"])) == ("u", "m", 1, 3)
    assert page["scored"] == ranked.json()["scored"]
    for item in (page["items"][0]["item"], "i29"):
        answer = whole.client.get("/v1/explain", params={"user": "u", "item": item, "model": "m"})
        (one,) = msgspec.json.decode(answer.content, type=Explanation).items
        assert one.item == item
        assert one.bias + one.wide + one.deep == pytest.approx(one.logit, abs=1e-5)
        assert one.deep_terms
    unknown = whole.client.get("/v1/explain?user=u&item=i999")
    assert unknown.status_code == 404
    assert "no item 'i999' is described" in unknown.json()["detail"]
    assert whole.client.get("/v1/explain?user=u&model=other").status_code == 404


def test_values_of_requests_are_named(whole: Whole) -> None:
    """What only requests say is written to `feature.names`, whichever way they come in."""
    whole.client.post("/v1/rank", json={"user": "u", "context": {"device": "over-http"}})
    whole.over_the_log(RankRequest("named", "u", context={"device": "over-kafka"}))
    reader, found = whole.log.reader(NAMES.name, {0: START}), set[str]()

    def are_named() -> bool:
        found.update(decode_entity(record.value or b"", FeatureName).text for record in reader.poll(0.05))
        return {"over-http", "over-kafka"} <= found

    wait_until(are_named)


def test_explanations_are_few_at_a_time(whole: Whole) -> None:
    """Many at once are answered one after the other, or shed with 503; lists are answered meanwhile."""
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(whole.client.get, "/v1/explain?user=u") for _ in range(64)]
        assert whole.client.post("/v1/rank", json={"user": "u"}).status_code == 200
        found = [one.result() for one in asked]
    assert {one.status_code for one in found} <= {200, 503}
    assert all(one.headers["retry-after"] == "1" for one in found if one.status_code == 503)
    assert any(one.status_code == 200 for one in found)


def test_it_does_not_start_where_others_could_call(tmp_path: Path) -> None:
    """Beyond loopback it needs tokens."""
    service = RankerService({"m": ModelSource(MemoryStore("m"))}, nobody_has_anything, threads=1)
    with pytest.raises(SettingsError, match="THALWEG_HTTP_TOKENS"):
        serve_http(Settings(local=tmp_path), "0.0.0.0:0", service)
