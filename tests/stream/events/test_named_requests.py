"""Requests with named fields: the same request, the same limits, and misspelled fields are errors."""

import json

import msgspec
import pytest

from stream.events.codec import encode_record
from stream.events.named_requests import decode_named, is_named, named_parts
from stream.events.request_parts import request_parts
from stream.events.types import REQUEST_BYTES_MAX, RankRequest, ReplyTo
from stream.runtime.errors import BadEvent

WHOLE = RankRequest(
    "q1", "u1", 3, 1_000, {"hour": 3.0, "app": "x"}, ["a"], 50, ["b"], {"age": 3.0, "of": ["x", "y"]}, "m",
    ReplyTo("t", 2), ["kids", {"exclude": ["a"]}],
)  # fmt: skip
NAMED = {
    "request_id": "q1", "user": "u1", "k": 3, "time_ms": 1_000, "context": {"hour": 3, "app": "x"},
    "candidates": ["a"], "deadline_ms": 50, "history": ["b"], "attributes": {"age": 3, "of": ["x", "y"]},
    "model": "m", "reply_to": {"topic": "t", "partition": 2}, "rules": ["kids", {"exclude": ["a"]}],
}  # fmt: skip


def test_a_named_request_is_the_positional_one() -> None:
    """As JSON and as a MessagePack map; whole numbers are numbers."""
    assert decode_named(json.dumps(NAMED).encode()).positional() == WHOLE
    assert decode_named(msgspec.msgpack.encode(NAMED), is_json=False).positional() == WHOLE


def test_every_field_can_be_named() -> None:
    """The two forms have the same fields and defaults."""
    assert set(NAMED) == set(RankRequest.__struct_fields__)
    assert decode_named(b'{"user": "u", "request_id": "r"}').positional() == RankRequest("r", "u")


BAD = [
    ("{}", "user"),
    ('{"user": ""}', "length >= 1"),
    ('{"user": "u"}', "needs a request_id"),
    ('{"user": "u", "candiates": ["a"]}', "candiates"),
    ('{"user": "u", "k": 0}', ">= 1"),
    ('{"user": "u", "k": 1.5}', "int"),
    ('{"user": "u", "k": "3"}', "int"),
    ('{"user": "u", "deadline_ms": -1}', ">= 0"),
    ('{"user": "u", "time_ms": -1}', ">= 0"),
    ('{"user": "u", "candidates": []}', "length >= 1"),
    ('{"user": "u", "request_id": "r", "candidates": ["a", "a"]}', "distinct"),
    ('{"user": "u", "candidates": ["a", ""]}', "length >= 1"),
    ('{"user": "u", "context": {"x": NaN}}', "malformed"),
    ('{"user": "u", "context": {"x": 1e999}}', "range"),
    ('{"user": "u", "context": {"x": null}}', "null"),
    ('{"user": "u", "reply_to": {"topic": "t", "partition": -1}}', ">= 0"),
    ('{"user": "u", "reply_to": {"partition": 1}}', "topic"),
    ("[1]", "object"),
    ('{"user": "u"', "truncated"),
    ("", "truncated"),
    ('{"user": "\ud800"}'.encode("utf-8", "surrogatepass").decode("latin-1"), "half of a surrogate pair"),
    (r'{"user": "\ud800"}', "half of a surrogate pair"),
    (r'{"user": "\ud800 and more", "k": 3}', "half of a surrogate pair"),
    (r'{"user": "\\ud800", "context": {}', "truncated"),
    (r'{"user": "\ud83d\ude00", "context": {}', "truncated"),
    ('{"user": "u", "context": {"hour": 3}', "truncated"),
    ("[" * 100_000, "object"),
]


@pytest.mark.parametrize(("raw", "why"), BAD, ids=lambda value: str(value)[:40])
def test_what_is_invalid_is_named(raw: str, why: str) -> None:
    """Each error says which field, and what is wrong with it."""
    with pytest.raises(BadEvent, match=why):
        decode_named(raw.encode("latin-1")).positional()


def test_a_request_has_256_kib_at_most() -> None:
    """A larger one isn't decoded."""
    with pytest.raises(BadEvent, match="more than the limit"):
        decode_named(b" " * (REQUEST_BYTES_MAX + 1))


def test_json_is_told_from_positional_records_by_its_first_byte() -> None:
    """An object or a list of objects, after any white space, never a list of positional requests."""
    one = json.dumps(NAMED).encode()
    for record in (one, b"\n " + one, b"[" + one + b"," + one + b"]"):
        assert is_named(record)
        assert all(decode_named(part).positional() == WHOLE for part in named_parts(record))
        assert len(named_parts(record)) == 1 + (b"," + one in record)
    assert not is_named(b"")
    assert not any(is_named(encode_record([WHOLE] * n)) for n in (0, 1, 15, 16, 70_000))
    with pytest.raises(BadEvent, match="neither a JSON request nor a list of them"):
        named_parts(b'[{"user": "u"},')


HALF = rb'{"request_id": "r\\2", "user": "\ud800", "history": ["\ud83d\ude00"]}'


def test_half_of_a_surrogate_pair_costs_its_own_request_only() -> None:
    """Of a list the others stay; what it has is its own bytes, and its id, if that is whole."""
    good = json.dumps(NAMED).encode()
    record = b"[" + good + b", \n " + HALF + b"," + good + b"]"
    first, bad, last = request_parts(record)
    assert first.request() == last.request() == WHOLE
    assert bad.raw == HALF
    with pytest.raises(BadEvent, match="half of a surrogate pair"):
        bad.request()
    names = bad.names()
    assert names is not None
    assert names.request_id == "r\\2"
    (nameless,) = request_parts(rb'{"request_id": "\udc00", "user": "u"}')
    assert nameless.names() is None
    with pytest.raises(BadEvent, match="truncated"):
        named_parts(record[:-1])
