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
    any_of = next(iter(found.estimates.values()))
    caption = f"95 % by bootstrap over {found.pages:,} pages"
    if found.left_out:
        caption += f"; {found.left_out:,} pages without propensities or labels are left out"
    table = Table("", *ESTIMATORS, "dr over logged", title="installs a page, had the target filled the logged pages",
                  caption=caption, title_justify="left", caption_justify="left", min_width=len(caption))  # fmt: skip
    digits = 4 if any_of.of(LOGGED).value >= RARE else 5
    table.add_row("as logged", interval_text(any_of.of(LOGGED), digits=digits), "", "", "")
    for name, one in found.estimates.items():
        cells = [interval_text(one.of(key), digits=digits) for key in ESTIMATORS]
        table.add_row(name, *cells, interval_text(one.gain("dr"), "+", digits))
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
        found.append(f"{one.effective_pages:,.0f} effective pages are too few to conclude from")
    elif (installs := one.effective_pages * one.of(LOGGED).value) < INSTALLS_MIN:
        found.append(f"{one.effective_pages:,.0f} effective pages have some {installs:.1f} installs, too few to conclude")
    value, low, high = one.of(MEAN_WEIGHT)
    if not 2 * low - value <= 1 <= 2 * high - value:  # some four standard errors: not by chance
        found.append("weights should be 1 on average: propensities are wrong, clipped, or the log never shows "
                     "what the target does")  # fmt: skip
    return found


def off_policy_figures(found: OffPolicy) -> dict[str, float]:
    """One flat object: `logged`, `wide,deep greedy.snips`, `….snips_low`, `….effective_pages` and so on."""
    figures: dict[str, float] = {"pages": found.pages, "left_out": found.left_out}
    if np.isfinite(found.options.clip):
        figures["clip"] = found.options.clip
    for name, one in found.estimates.items():
        figures |= named(LOGGED, "", one.of(LOGGED), with_value=True)
        for key in ESTIMATORS:
            figures |= named(f"{name}.{key}", "", one.of(key), with_value=True)
            figures |= named(f"{name}.{key}_gain", "", one.gain(key), with_value=True)
        figures |= named(f"{name}.{MEAN_WEIGHT}", "", one.of(MEAN_WEIGHT), with_value=True)
        figures |= {f"{name}.effective_pages": one.effective_pages, f"{name}.weight_max": one.weight_max,
                    f"{name}.clipped": one.clipped, f"{name}.matched": one.matched,
                    f"{name}.installs": one.installs}  # fmt: skip
    return figures
