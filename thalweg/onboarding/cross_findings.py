"""Findings about cross-products: those that may have more keys of an item than are learned."""

from collections.abc import Iterator
from math import prod

from stream.features.cross_products import KEYS_MAX
from stream.features.page_kernels import LIST_MAX
from stream.spec.spec import Spec
from thalweg.onboarding.findings import Finding
from thalweg.onboarding.survey import Survey

REMEDY = (
    "shorten `last` of the history or the lists, or drop the cross; the learner counts such items in "
    "thalweg_learner_crosses_left_out_total"
)


def cross_findings(survey: Survey, spec: Spec) -> Iterator[Finding]:
    """Crosses of lists that together are longer than KEYS_MAX, by the longest that came."""
    for cross in spec.crosses() if "wide" in spec.parts else []:
        lengths = [_longest(survey, spec, name) for name in cross.of]
        if prod(lengths) > KEYS_MAX:
            names = " x ".join(cross.of)
            product = f"{' x '.join(f'{n:,}' for n in lengths)} = {prod(lengths):,} keys of an item"
            message = f"cross {names} may have {product}: over {KEYS_MAX:,} it is left out for that item"
            yield Finding("warning", f"long:{names}", 1, message, "", REMEDY)


def _longest(survey: Survey, spec: Spec, name: str) -> int:
    """How many values the column has at most on a page."""
    column = spec.columns()[name]
    if column.of:
        return max(1, min(column.last, int(survey.histories.high))) if survey.histories.count else 1
    origin, short = name.split(".", 1)
    seen = survey.origins[origin].columns.get(short) if origin in survey.origins else None
    if column.type != "categories" or seen is None or not seen.list_lengths.count:
        return 1
    return max(1, min(LIST_MAX, int(seen.list_lengths.high)))
