"""The kinds of statistics: one table of what each goes by, how it is read, and how it learns.

A new kind is a name in `Measure` and a row of `KINDS`; a new way of reading or learning is a branch of
`statistic_reads.measure` or `statistic_updates.label_sum`.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, get_args

from stream.runtime.errors import SpecError

Measure = Literal["rate", "count", "since", "residual", "affinity", "likeness", "lift", "coec"]
GoesBy = Literal["fields", "history", "memory", "installs"]

# How one or more rows (n, s, t) are read: branches of `measure`. READ_MEMORY and READ_LIFT have their own kernels
# (item_similarity, item_lift).
READS: Final = tuple(range(8))
READ_RATE, READ_COUNT, READ_SINCE, READ_MEAN, READ_STRONGEST, READ_MEMORY, READ_RATIO, READ_LIFT = READS

# What a label adds to s: branches of `label_sum`. LEARN_MEMORY and LEARN_LIFT have their own kernels; in their rows s
# may be an item's id.
LEARNS: Final = tuple(range(7))
LEARN_LABELS, LEARN_RESIDUALS, LEARN_MEMORY, LEARN_ORGANIC, LEARN_INSTALLS, LEARN_RATIO, LEARN_LIFT = LEARNS
# No label updates LEARN_ORGANIC, only positive ones (and retractions) LEARN_INSTALLS and LEARN_LIFT; organic installs
# update all three.
MEMORY_READS: Final = (READ_MEMORY, READ_LIFT)
MEMORY_LEARNS: Final = (LEARN_MEMORY, LEARN_LIFT)


class Kind(NamedTuple):
    """A kind of statistic.

    `goes_by`: one field or a pair; an item of the page with each of the user's history; or user and item, and it
    remembers the user's last labels ("memory") or all their last installs ("installs"). `organic`: whether organic
    installs, which have no label, may update it instead. `windowed`: whether it may be of the last `window` alone.
    """

    description: str
    goes_by: GoesBy
    read: int
    learn: int
    organic: bool = False
    windowed: bool = False


def checked(kinds: Mapping[Measure, Kind]) -> Mapping[Measure, Kind]:
    """The table, validated: it has every kind and only existing branches."""
    assert set(kinds) == set(get_args(Measure)), f"every kind has a row: {sorted(set(kinds) ^ set(get_args(Measure)))}"
    for name, kind in kinds.items():
        assert kind.goes_by in get_args(GoesBy), f"{name} goes by {kind.goes_by}"
        assert kind.read in READS, f"{name} is read by an unknown branch"
        assert kind.learn in {*LEARNS} - {LEARN_ORGANIC, LEARN_INSTALLS}, f"{name} learns by an unknown branch"
        memory = {kind.goes_by in ("memory", "installs"), kind.read in MEMORY_READS, kind.learn in MEMORY_LEARNS}
        assert len(memory) == 1, f"{name}: memory must be its goes_by, read and learn alike"
    return kinds


KINDS: Final = checked(
    {
        "rate": Kind("smoothed label rate", "fields", READ_RATE, LEARN_LABELS, windowed=True),
        "count": Kind("log(1 + labels)", "fields", READ_COUNT, LEARN_LABELS, organic=True, windowed=True),
        "since": Kind("log(1 + seconds since the last label)", "fields", READ_SINCE, LEARN_LABELS, organic=True),
        "residual": Kind("mean of label less what was expected, shrunk", "fields", READ_MEAN, LEARN_RESIDUALS),
        "affinity": Kind(
            "residual of this item among those who have what is in the history",
            "history", READ_STRONGEST, LEARN_RESIDUALS,
        ),
        "likeness": Kind(
            "how this item's labels go with the user's last `neighbours` labels, installed or not",
            "memory", READ_MEMORY, LEARN_MEMORY,
        ),
        "lift": Kind(
            "how often this item is installed by those who have the user's last `neighbours` installs, over chance",
            "installs", READ_LIFT, LEARN_LIFT,
        ),
        "coec": Kind(
            "clicks over expected clicks: labels over those that their positions' rates lead to expect",
            "fields", READ_RATIO, LEARN_RATIO,
        ),
    }
)  # fmt: skip
KIND_DESCRIPTIONS: Final = " · ".join(f"{name}: {kind.description}" for name, kind in KINDS.items())


def kind_of(name: str) -> Kind:
    """A kind by its name. Raises SpecError when there is none."""
    for known, kind in KINDS.items():
        if known == name:
            return kind
    raise SpecError(f"there is no statistic of the kind {name!r}; known are {', '.join(KINDS)}")
