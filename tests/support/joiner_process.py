"""Runs a joiner as a process of its own: `python joiner_process.py JSON` with settings, rules and shell."""

import json
import logging
import sys

from stream.joiner.label_rules import LabelRules
from stream.joiner.record_processor import JoinerOptions
from stream.joiner.supervisor import run_joiner
from stream.runtime.settings import Settings

if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    given = json.loads(sys.argv[1])
    run_joiner(Settings(**given["settings"]), LabelRules(**given["rules"]), JoinerOptions(**given["shell"]))
