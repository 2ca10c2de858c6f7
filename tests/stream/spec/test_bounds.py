"""Bounds of tables against memory."""

import pytest

from stream.runtime.errors import SettingsError
from stream.runtime.memory import MB
from stream.spec.bounds import Needs, bounds_of, check_bounds, scaled
from stream.spec.spec import Spec
from stream.spec.spec_file import parse_spec

TEXT = """
name = "m"
parts = ["wide"]
max_statistics = 1_000_000
statistics.rate = { kind = "rate", by = ["item.id"] }
user.id = "category"
item.id = "category"
wide.features = ["item.id"]
"""
SPEC = parse_spec(TEXT)  # names one of its two bounds


def needs(spec: Spec) -> Needs:
    """A byte of a statistic, ten of a key, as many again in a retrain, and the process."""
    keys = 10 * spec.wide.max_keys
    return Needs({"process": 10 * MB, "statistics": spec.max_statistics, "wide": keys}, {"a retrain": keys})


def test_what_fits_is_said_nothing_of() -> None:
    """Bounds whose tables fit, a retrain among them, need no word."""
    assert check_bounds("learner", SPEC, needs, 2_000 * MB) == ""


def test_named_bounds_that_cannot_fit_are_refused() -> None:
    """The line says what is needed, what there is, what takes it, and which bound to lower."""
    with pytest.raises(
        SettingsError, match=r"up to 12 MB, and there are 11 MB .*process 10.*max_statistics = 1_000_000"
    ):
        check_bounds("learner", SPEC, needs, 11 * MB)


def test_a_process_that_cannot_fit_is_refused() -> None:
    """Without a named bound there's none to lower."""
    with pytest.raises(SettingsError, match="its process alone takes that"):
        check_bounds("learner", parse_spec(TEXT.replace("max_statistics = 1_000_000", "")), needs, 5 * MB)


@pytest.mark.parametrize("memory", [50 * MB, 400 * MB])
def test_defaults_that_cannot_fit_are_warned_of_with_some_that_can(memory: int) -> None:
    """Nothing is derived: the warning has bounds to write into the spec, and with these there is no warning."""
    warning = check_bounds("learner", SPEC, needs, memory)
    assert "Name bounds in the spec; these fit: wide.max_keys = " in warning
    fitting = warning.rpartition("= ")[2]
    assert int(fitting) > 1_000
    named = parse_spec(f"{TEXT}wide.max_keys = {fitting}\n")
    assert check_bounds("learner", named, needs, memory) == ""


def test_what_comes_now_and_then_is_warned_of() -> None:
    """Tables that fit are not refused because a retrain wouldn't."""
    named = parse_spec(f"{TEXT}wide.max_keys = 10_000_000\n")
    assert "during a retrain" in check_bounds("learner", named, needs, 150 * MB)


def test_only_defaults_are_scaled() -> None:
    """A bound that the spec names stays."""
    assert bounds_of(scaled(SPEC, 0.1)) == {"max_statistics": 1_000_000, "wide.max_keys": 5_000_000}
