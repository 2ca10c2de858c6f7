"""What `thalweg backtest --off-policy` prints and writes."""

from typing import Final

import numpy as np
from rich.table import Table

from thalweg.backtest.off_policy import ESTIMATORS, LOGGED, MEAN_WEIGHT, Estimate
from thalweg.backtest.off_policy_run import OffPolicy
from thalweg.backtest.report import interval_text, justify, named

EFFECTIVE_MIN: Final = 100  # pages, and
INSTALLS_MIN: Final = 10  # installs on them: with fewer even the interval can't be trusted
RARE: Final = 0.01  # installs a page
GAIN: Final = f"dr over {LOGGED}"


def off_policy_table(found: OffPolicy) -> Table:
    """What each target would have earned a page, by estimator, and what its weights are like; each target a column."""
    doubts = [f"{name}: {doubt}" for name, one in found.estimates.items() for doubt in doubts_of(one)]
    caption = [f"95 % by bootstrap over those of {found.pages:,} pages that have propensities and labels", *doubts]
    table = Table("installs a page", *found.estimates, title="off-policy: had they filled the logged pages",
                  caption="\n".join(caption), title_justify="left", caption_justify="left",
                  min_width=max(map(len, caption)))  # fmt: skip
    cells = [_cells(one) for one in found.estimates.values()]
    for head in cells[0]:
        table.add_row(head, *(of[head] for of in cells), end_section=head == GAIN)
    justify(table)
    return table


def _cells(one: Estimate) -> dict[str, str]:
    digits = 4 if one.of(LOGGED).value >= RARE else 5
    found = {key: interval_text(one.of(key), digits=digits) for key in (LOGGED, *ESTIMATORS)}
    return found | {
        GAIN: interval_text(one.gain("dr"), "+", digits),
        "pages": f"{one.pages:,}",
        "effective pages": f"{one.effective_pages:,.0f}",
        "mean weight": interval_text(one.of(MEAN_WEIGHT)),
        "largest weight": f"{one.weight_max:,.1f}",
        "weights clipped": f"{one.clipped:,}",
        "items it might show": f"{one.matched:.1%}",
        "installs among them": f"{one.installs:,}",
    }


def doubts_of(one: Estimate) -> list[str]:
    """Why an estimate shouldn't be trusted; empty if nothing speaks against it."""
    found = []
    if one.effective_pages < EFFECTIVE_MIN:
        found.append(f"{one.effective_pages:,.0f} effective pages are too few")
    elif (installs := one.effective_pages * one.of(LOGGED).value) < INSTALLS_MIN:
        found.append(f"{one.effective_pages:,.0f} effective pages have some {installs:.1f} installs: too few")
    value, low, high = one.of(MEAN_WEIGHT)
    if not 2 * low - value <= 1 <= 2 * high - value:  # some four standard errors: not by chance
        found.append("weights should be 1 on average: propensities are wrong, clipped, or the log never shows "
                     "what the target does")  # fmt: skip
    return found


def off_policy_figures(found: OffPolicy) -> dict[str, float]:
    """One flat object: `wide,deep greedy.snips`, `….snips_low`, `….snips_gain`, `….effective_pages` and so on."""
    figures: dict[str, float] = {"pages": found.pages}
    if np.isfinite(found.options.clip):
        figures["clip"] = found.options.clip
    for name, one in found.estimates.items():
        for key in (LOGGED, *ESTIMATORS, MEAN_WEIGHT):
            figures |= named(f"{name}.{key}", "", one.of(key), with_value=True)
        for key in ESTIMATORS:
            figures |= named(f"{name}.{key}_gain", "", one.gain(key), with_value=True)
        for key in ("pages", "effective_pages", "weight_max", "matched", "installs", "clipped"):
            figures[f"{name}.{key}"] = getattr(one, key)
    return figures
