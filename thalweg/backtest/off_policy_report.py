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


def off_policy_tables(found: OffPolicy) -> list[Table]:
    """Installs a page by target and estimator, and what their weights are like."""
    return [_earned(found), _weights(found)]


def _earned(found: OffPolicy) -> Table:
    heads = ("", "pages", LOGGED, *ESTIMATORS, f"dr over {LOGGED}")
    caption = f"of {found.pages:,} pages those with propensities and labels; 95 % by bootstrap over pages"
    table = Table(*heads, title="installs a page, had the target filled the logged pages", caption=caption,
                  title_justify="left", caption_justify="left", min_width=len(caption))  # fmt: skip
    for name, one in found.estimates.items():
        digits = 4 if one.of(LOGGED).value >= RARE else 5
        cells = [interval_text(one.of(key), digits=digits) for key in (LOGGED, *ESTIMATORS)]
        table.add_row(name, f"{one.pages:,}", *cells, interval_text(one.gain("dr"), "+", digits))
    justify(table)
    return table


def _weights(found: OffPolicy) -> Table:
    doubts = [f"{name}: {doubt}" for name, one in found.estimates.items() for doubt in doubts_of(one)]
    heads = ("", "effective pages", "mean weight", "largest", "clipped", "items it might show", "installs")
    table = Table(*heads, title="weights", caption="\n".join(doubts), title_justify="left", caption_justify="left",
                  min_width=max(map(len, doubts), default=0))  # fmt: skip
    for name, one in found.estimates.items():
        table.add_row(name, f"{one.effective_pages:,.0f}", interval_text(one.of(MEAN_WEIGHT)), f"{one.weight_max:,.1f}",
                      f"{one.clipped:,}", f"{one.matched:.1%}", f"{one.installs:,}")  # fmt: skip
    justify(table)
    return table


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
