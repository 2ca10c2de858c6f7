"""When a quiet partition's event time may go on."""

from stream.joiner.idleness import Idleness


def test_only_a_watermark_that_moves_is_a_sign_of_life() -> None:
    """A trickle of late, future or undecodable records doesn't stop event time."""
    idleness = Idleness(0.0, 1_000)
    idleness.observe(1_000, 5, 2.0)
    assert idleness.duration_ms(3.0) == 3_000
    idleness.observe(1_001, 6, 4.0)
    assert idleness.duration_ms(4.5) == 500


def test_a_tick_restarts_the_idle_time() -> None:
    """An idle time that a tick has said isn't counted again."""
    idleness = Idleness(0.0, 0)
    idleness.restart(7.0)
    assert idleness.duration_ms(7.25) == 250


def test_after_an_outage_an_event_must_have_been_appended_since() -> None:
    """What was in the log before says nothing of producers; the first event after it restarts the idle time."""
    idleness = Idleness(0.0, 1_000)
    idleness.end_outage(10, 20.0, grace_s=30.0)
    idleness.observe(1_500, 9, 21.0)
    assert idleness.duration_ms(25.0) == 0
    idleness.observe(1_500, 10, 26.0)
    assert idleness.duration_ms(27.0) == 1_000


def test_after_the_grace_a_partition_without_events_is_silent() -> None:
    """Its time goes on by all of the silence."""
    idleness = Idleness(0.0, 1_000)
    idleness.end_outage(10, 20.0, grace_s=30.0)
    assert idleness.duration_ms(49.9) == 0
    assert idleness.duration_ms(50.0) == 50_000
