"""What two specs share: columns, crosses and statistics that mean the same in both."""

import pytest

from stream.spec.spec_changes import SpecChanges
from tests.support.learner_world import small_spec

SPEC = small_spec()


def changed(**changes: str) -> SpecChanges:
    """From the small spec to one with these changes."""
    return SpecChanges(SPEC, small_spec(**changes))


def test_nothing_differs_between_equal_specs() -> None:
    """All columns, crosses and statistics are shared."""
    same = changed()
    assert same.differences() == []
    assert all(map(same.is_shared, SPEC.columns()))
    assert same.crosses == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    assert same.statistics == same.logged_statistics == {*SPEC.statistics}


@pytest.mark.parametrize(
    ("old", "new", "not_shared"),
    [
        ("bands = [20, 40]", "bands = [20, 50]", {"user.age_band"}),
        ('tags = "categories"', 'tags = "category"', set()),
        ("last = 5", "last = 9", set()),
        ('price = "number"', 'price = "date"', {"item.price"}),
        ('price = "number"\n[context]', 'price = "number"\nsize = "number"\n[context]', {"item.size"}),
    ],
)
def test_columns_are_shared_by_what_their_values_mean(old: str, new: str, not_shared: set[str]) -> None:
    """Other bounds change a band, not its number; a list of ids is ids."""
    changes = changed(**{old: new})
    assert {name for name in changes.new.columns() if not changes.is_shared(name)} == not_shared


def test_crosses_are_shared_by_the_names_of_their_columns() -> None:
    """In whatever order the crosses stand; the bias is the last of each."""
    moved = changed(**{'features = ["user.id", "item.id"]\n': 'features = ["item.tags", "item.id"]\n'})
    assert moved.crosses == {1: 1, 2: 2, 3: 3, 4: 4}
    banded = changed(**{"bands = [20, 40]": "bands = [30]", 'features = ["user.id", "item.id"]\n': ""})
    assert banded.crosses == {2: 0, 4: 2}


def test_statistics_are_shared_by_their_rows() -> None:
    """A rate and a count read the same rows; another prior gives logged values another meaning."""
    read = changed(**{'rate = { kind = "rate"': 'rate = { kind = "count"'})
    assert read.statistics == {*SPEC.statistics}
    assert read.logged_statistics == {*SPEC.statistics} - {"rate"}
    by = changed(**{'last = { kind = "since", by = ["user.id"] }': 'last = { kind = "since", by = ["item.id"] }'})
    assert by.statistics == {*SPEC.statistics} - {"last"}
    by.check()


def test_differences_are_named() -> None:
    """By kind: added, dropped, changed."""
    changes = changed(
        **{
            'price = "number"': 'size = "number"',
            '"item.price"': '"item.size"',
            "bands = [20, 40]": "bands = [30]",
            "[8, 4]": "[16]",
            'last = { kind = "since", by = ["user.id"] }': 'late = { kind = "since", by = ["user.id"] }',
        }
    )
    assert [str(one) for one in changes.differences()] == [
        "columns: added item.size; dropped item.price; changed user.age_band",
        "statistics: added late; dropped last",
        "crosses: changed user.age_band x item.tags",
        "deep inputs: added item.size, statistics.late; dropped item.price, statistics.last",
        "deep shapes: added hidden_units = [16]; dropped hidden_units = [8, 4]",
    ]
