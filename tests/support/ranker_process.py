"""Runs a ranker as a process of its own: `python ranker_process.py JSON` with its settings, for model `m`."""

import json
import logging
import sys

from ranker.serving.service import run_ranker
from stream.runtime.settings import Settings

if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    run_ranker(Settings(**json.loads(sys.argv[1])), "m")
