"""`thalweg init`: a spec drafted from a person's events."""

import re
from collections.abc import Callable

from stream.runtime.settings import Settings
from stream.spec.spec_file import parse_spec
from thalweg.onboarding.findings import places
from thalweg.onboarding.spec_draft import Outline
from thalweg.onboarding.survey import Survey
from thalweg.sources.reading import read_through


def drafted(source: str, settings: Settings, name: str, say: Callable[[str], None]) -> str:
    """A spec for a source, read to its end; `say` hears of lines that can't be read. Raises DataError, SpecError."""
    survey = Survey()
    for line, event in read_through(source, settings):
        survey.take(line, event)
    survey.finish()
    if survey.broken.count:
        say(f"{survey.broken.count:,} lines can't be read: {places(survey.broken)}")
    text = Outline(survey, source, name or name_of(source)).text()
    parse_spec(text, "the draft")
    return text


def name_of(source: str) -> str:
    """A model's name out of a file's.

    >>> name_of("my data/events 2026.jsonl"), name_of("-"), name_of("openbandit/bts/men")
    ('events-2026', 'world', 'men')
    """
    stem = re.sub(r"\.[A-Za-z0-9]+$", "", source.rstrip("/").rsplit("/", 1)[-1])
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-")[:64] or "world"
