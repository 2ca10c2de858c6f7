"""What is counted of HTTP."""

from pathlib import Path

from tests.support.http_ranker import http_ranker

PAGE = {"type": "impression", "user": "ann", "items": ["tea", "mug"]}
ITEM = {"type": "item", "item": "tea"}


def test_requests_are_counted_by_route_and_status(tmp_path: Path) -> None:
    """Few series, whatever is asked for; connections are a gauge."""
    file = tmp_path / "tokens.toml"
    file.write_text('[ops]\ntoken = "ops-ops-ops-ops-ops"\nscopes = ["admin", "rank", "events"]\n')
    with http_ranker(file) as ranker:
        token = {"Authorization": "Bearer ops-ops-ops-ops-ops"}

        def metrics() -> dict[str, float]:
            lines = ranker.client.get("/metrics", headers=token).text.splitlines()
            return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

        before = metrics()

        def more(name: str) -> float:
            return after.get(name, 0.0) - before.get(name, 0.0)

        ranker.rank(**token)
        ranker.rank(b"{", **token)
        ranker.send(PAGE, ITEM, **token)
        for n in range(3):
            ranker.client.get(f"/guessed-{n}")
        ranker.client.get("/v1/items/x")
        after = metrics()
        requests = "thalweg_ranker_http_requests_total"
        assert more(requests + '{route="/v1/rank",status="200"}') == 1
        assert more(requests + '{route="/v1/rank",status="400"}') == 1
        assert more(requests + '{route="/v1/events",status="207"}') == 1
        assert more(requests + '{route="/v1/items/{id}",status="401"}') == 1
        assert more(requests + '{route="other",status="404"}') == 3
        assert more('thalweg_ranker_http_seconds_count{route="/v1/rank"}') == 2
        assert more('thalweg_ranker_http_events_total{status="forbidden"}') == 1
        assert after["thalweg_ranker_http_connections"] == 1
