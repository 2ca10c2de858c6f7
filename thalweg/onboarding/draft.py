"""`thalweg init`: drafts a spec from a user's events."""

import re
from collections.abc import Callable

from stream.runtime.settings import Settings
from stream.spec.spec_file import parse_spec
from thalweg.onboarding.findings import first_lines
from thalweg.onboarding.spec_draft import SpecDraft
from thalweg.onboarding.survey import Survey
from thalweg.sources.reading import read_source


def draft_spec(source: str, settings: Settings, name: str, say: Callable[[str], None]) -> str:
    """Draft a spec for a source, read to its end; `say` gets unreadable lines. Raises DataError, SpecError."""
    survey = Survey()
    for line, event in read_source(source, settings):
        survey.add(line, event)
    survey.finish()
    if survey.broken.count:
        say(f"{survey.broken.count:,} lines can't be read: {first_lines(survey.broken)}")
    text = SpecDraft(survey, source, name or model_name(source)).text()
    parse_spec(text, "the draft")
    return text


def model_name(source: str) -> str:
    """A model's name, derived from a file's.

    >>> model_name("my data/events 2026.jsonl"), model_name("-"), model_name("openbandit/bts/men")
    ('events-2026', 'model', 'men')
    """
    stem = re.sub(r"\.[A-Za-z0-9]+$", "", source.rstrip("/").rsplit("/", 1)[-1])
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-")[:64] or "model"
