"""The same join as Faust's documentation shows one: windowed tables, one event a record, JSON values, automatic acks.

`python -m benchmarks.faust_tables KAFKA PREFIX`. Pages are in a tumbling table until their window closes; then their
other items are emitted as negatives. An install finds its page in a second table, by user and item.
"""

import sys
import tempfile
from typing import Any

import faust

WINDOW_S = 2.0


def make_app(kafka: str, prefix: str) -> faust.App:
    """The app; topics are `<prefix>peer.events` and `<prefix>peer.examples`."""
    app = faust.App(
        f"{prefix}peer",
        broker=f"kafka://{kafka}",
        store="memory://",
        web_enabled=False,
        topic_replication_factor=1,
        topic_partitions=4,
        stream_wait_empty=False,
        worker_redirect_stdouts=False,
        datadir=tempfile.mkdtemp(prefix="thalweg-peer-"),
    )
    events = app.topic(f"{prefix}peer.events", value_serializer="json", key_type=str)
    examples = app.topic(f"{prefix}peer.examples", value_serializer="json")

    def closed(key: Any, page: dict[str, Any]) -> None:
        for position in range(len(page["items"])):
            if position not in page["done"]:
                examples.send_soon(value={"page": page, "position": position, "label": 0})

    pages = app.Table("pages", default=dict, on_window_close=closed).tumbling(WINDOW_S, expires=WINDOW_S)
    shown = app.Table("shown", default=str)

    @app.agent(events)
    async def join(stream: Any) -> None:
        async for event in stream:
            if "items" in event:
                pages[event["request_id"]] = {**event, "done": []}
                for item in event["items"]:
                    shown[f"{event['user']}/{item}"] = event["request_id"]
            elif request_id := shown[f"{event['user']}/{event['item']}"]:
                page = pages[request_id].now()
                if page:
                    position = page["items"].index(event["item"])
                    pages[request_id] = {**page, "done": [*page["done"], position]}
                    await examples.send(value={"page": page, "position": position, "label": 1})

    return app


if __name__ == "__main__":
    made = make_app(*sys.argv[1:3])
    made.finalize()
    faust.Worker(made, loglevel="error").execute_from_commandline()
