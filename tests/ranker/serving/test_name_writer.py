"""Names of values reach their topic, or wait for it."""

from ranker.serving.name_writer import NameWriter
from stream.events.codec import decode_entity
from stream.events.topics import NAMES
from stream.events.types import FeatureName
from stream.features.new_values import NewValues
from stream.features.page_features import Layout
from stream.log.memory_log import MemoryLog
from stream.log.protocol import START, Log
from stream.runtime.errors import LogUnavailable
from stream.spec.spec_file import parse_spec

LAYOUT = Layout(parse_spec("""
name = "m"
user = { id = "category" }
item = { id = "category" }
context = { device = "category" }
wide.features = ["context.device"]
deep.features = ["context.device"]
"""))  # fmt: skip


def texts(log: MemoryLog) -> list[str]:
    """What was written."""
    records = log.reader(NAMES.name, {0: START}).poll(0.0)
    return [decode_entity(record.value or b"", FeatureName).text for record in records]


def test_names_are_written_once_and_wait_for_the_log() -> None:
    """What couldn't be written, for whatever reason of the log, is written with what came later."""
    log, missing, away = MemoryLog({NAMES.name: 1}, lambda: 7), MemoryLog({}, lambda: 7), list[bool]()
    logs: list[Log] = [missing, log]

    def connect() -> Log:
        if not away:
            away.append(True)
            raise LogUnavailable("nobody answers")
        return logs.pop(0)

    values = NewValues(lambda: 0)
    writer = NameWriter(values, connect)
    writer.write()
    assert not away, "nothing is new"
    for device in ("phone", "tv", "phone", "car"):
        values.note(LAYOUT, {"device": device})
        if device != "phone":
            writer.write()
        assert logs or device == "car"
    writer.write()
    assert texts(log) == ["phone", "tv", "car"]


def test_the_name_of_an_erased_user_is_not_written() -> None:
    """Neither one that waits nor one that couldn't be written; it is noted anew when the user comes back."""
    log = MemoryLog({NAMES.name: 1}, lambda: 7)
    logs: list[Log] = [MemoryLog({}, lambda: 7), log, log]
    values = NewValues(lambda: 0)
    writer = NameWriter(values, lambda: logs.pop(0))
    values.note(LAYOUT, {"device": "u"}, user="u")
    writer.write()
    values.note(LAYOUT, {}, user="v")
    values.forget("u")
    values.forget("v")
    writer.write()
    assert texts(log) == ["u"], "the device"
    values.note(LAYOUT, {}, user="u")
    writer.write()
    assert texts(log) == ["u", "u"]
