"""`python -O` leaves out asserts, and runs the same."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
FOLDERS: Final = ("benchmarks", "learner", "producers", "ranker", "stream", "thalweg")
# Calls that an assert may make: they change nothing.
FUNCTIONS: Final = {
    *("abs", "all", "any", "get_args", "hasattr", "isinstance", "len", "max", "min", "set", "sorted", "sum"),
    *("commit_of", "digest_of"),
}
METHODS: Final = {"all", "allclose", "assignment", "any", "encode", "is_alive", "monotonic", "perf_counter", "poll"}
SCRIPT: Final = """
import sys
from thalweg.kernels import SPEC, load_spec, miniature
assert False, "never reached under -O"
print([(reply.version, reply.items, reply.scores, reply.features.hex()) for reply in miniature(load_spec(SPEC), 32)[1]])
"""


def effects(source: str, lazy: set[str]) -> Iterator[tuple[int, str]]:
    """Line and text of what asserts do besides looking: calls that aren't known to change nothing, assignments, and
    reads of `lazy` properties.
    """
    for found in ast.walk(ast.parse(source)):
        if not isinstance(found, ast.Assert):
            continue
        for node in ast.walk(found.test):
            match node:
                case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
                    continue
                case ast.Call(func=ast.Attribute(attr=name)) if name in METHODS:
                    continue
                case ast.Call() | ast.NamedExpr() | ast.Await() | ast.Yield() | ast.YieldFrom():
                    yield found.lineno, ast.unparse(node)
                case ast.Attribute(attr=name) if name in lazy:
                    yield found.lineno, ast.unparse(node)


def lazy_properties(source: str) -> set[str]:
    """Names of properties that compute something at their first use."""
    return {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and any("cached_property" in ast.unparse(d) for d in node.decorator_list)
    }


def test_no_assert_does_anything_but_look() -> None:
    """What an assert calls changes nothing, so leaving it out changes nothing."""
    sources = {path: path.read_text() for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}
    lazy = set().union(*map(lazy_properties, sources.values()))
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path, source in sources.items()
        for line, text in effects(source, lazy)
    ]
    assert not found, "call it before the assert, or add what changes nothing to FUNCTIONS or METHODS"


def test_nothing_relies_on_a_library_s_asserts() -> None:
    """Nobody catches AssertionError: under -O a library would raise something else, or nothing."""
    caught = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and node.type and "AssertionError" in ast.unparse(node.type)
    ]
    assert not caught


@pytest.mark.parametrize(
    "source",
    ["assert self.score()", "assert (n := 3)", "assert self.blobs is not None", "assert [f(x) for x in y]"],
)
def test_an_assert_that_does_something_is_found(source: str) -> None:
    """Calls, assignments and lazy properties are found wherever they stand in the condition."""
    assert [*effects(source, {"blobs"})]


@pytest.mark.parametrize("source", ["assert len(x) == n, f(x)", "assert self.other is not None", "self.score()"])
def test_an_assert_that_only_looks_is_fine(source: str) -> None:
    """A message is only made when the assert fails."""
    assert not [*effects(source, {"blobs"})]


def test_ranks_the_same_under_python_o() -> None:
    """Learning, publishing, loading and ranking give the same bytes with and without asserts."""
    plain = SCRIPT.replace("assert False", "assert True")
    with_asserts, without = (
        subprocess.run([sys.executable, *flags, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        for flags, script in (([], plain), (["-O"], SCRIPT))
    )
    assert with_asserts.stdout == without.stdout
    assert len(without.stdout) > 1_000


def test_kafka_s_tagged_fields_are_read_under_python_o() -> None:
    """kafka-python reads a byte in an assert: here it's read in any case."""
    script = (
        "import io, stream.log.kafka_client\n"
        "from kafka.protocol.schemas.fields.codecs import TaggedFields\n"
        "data = io.BytesIO(bytes(2))\n"
        "TaggedFields.decode_empty(data)\n"
        "print(data.tell())\n"
    )
    done = subprocess.run([sys.executable, "-O", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
