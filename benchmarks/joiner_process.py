"""A joiner as a process of its own: `python -m benchmarks.joiner_process JSON` of settings, rules, shell, warm."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from aiokafka.consumer.fetcher import FetchResult

from benchmarks.joiner_world import first_read_file
from stream.joiner.label_rules import LabelRules
from stream.joiner.record_processor import JoinerOptions, warm_up
from stream.joiner.supervisor import run_joiner
from stream.runtime.settings import Settings


def note_first_read(file: Path) -> None:
    """Record when aiokafka returns its first record, one by one or many at once."""
    one, many, unread = FetchResult.getone, FetchResult.getall, True

    def noted(found: Any) -> Any:
        nonlocal unread
        if unread and found:
            unread = False
            file.write_text(repr(time.time()))
        return found

    def getone(self: FetchResult) -> Any:
        return noted(one(self))

    def getall(self: FetchResult, max_records: int | None = None) -> Any:
        return noted(many(self, max_records))

    FetchResult.getone, FetchResult.getall = getone, getall


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    given = json.loads(sys.argv[1])
    settings = Settings(**given["settings"])
    if given["warm"]:
        warm_up()
    note_first_read(first_read_file(settings))
    run_joiner(settings, LabelRules(**given["rules"]), JoinerOptions(**given["shell"]))
