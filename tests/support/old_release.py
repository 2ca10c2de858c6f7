"""The code of the release before, from its tag, with compiled kernels of this checkout where they are the same."""

import ast
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
TAG: Final = os.environ.get("OLD_RELEASE", "v0.2.0")


def old_release(folder: Path) -> Path:
    """The folder, with the release's files. Skips the test without git or the tag."""
    git = shutil.which("git")
    archive = git and subprocess.run([git, "archive", TAG], cwd=ROOT, capture_output=True, check=False)
    if not archive or archive.returncode:
        pytest.skip(f"needs git and the tag {TAG}: in a clone, `git fetch --tags`")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    _take_kernels(folder)
    return folder


def _take_kernels(folder: Path) -> None:
    """Compiled kernels of unchanged files, unless one uses what has changed elsewhere: it's compiled into them.

    numba knows a file by its time and size.
    """
    old, new = _Code(folder), _Code(ROOT)
    for path in folder.rglob("*.py"):
        name = str(path.relative_to(folder))
        here = ROOT / name
        compiled = [*here.parent.glob(f"__pycache__/{here.stem}.*.nb[ic]")]
        if compiled and here.read_bytes() == path.read_bytes() and old.kernels(name) == new.kernels(name):
            shutil.copystat(here, path)
            (path.parent / "__pycache__").mkdir(exist_ok=True)
            for kernel in compiled:
                shutil.copy(kernel, path.parent / "__pycache__")


class _Code:
    """A checkout's top-level definitions and imports, by file and name; annotations aren't looked into."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: dict[str, tuple[dict[str, ast.stmt], dict[str, tuple[str, str]]]] = {}

    def kernels(self, file: str) -> dict[tuple[str, str], str]:
        """The code of a file's functions, and of all that they use."""
        found: dict[tuple[str, str], str] = {}
        for name, node in self._names(file)[0].items():
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                self._add(file, name, found)
        return found

    def _add(self, file: str, name: str, found: dict[tuple[str, str], str]) -> None:
        definitions, imports = self._names(file)
        if name in imports:
            self._add(*imports[name], found)
        elif name in definitions and (file, name) not in found:
            node = definitions[name]
            found[file, name] = ast.dump(node)
            for used in _used(node):
                module, _, attribute = used.partition(".")
                self._add(file, module, found)
                if attribute and module in imports:
                    self._add("/".join(imports[module]) + ".py", attribute, found)

    def _names(self, file: str) -> tuple[dict[str, ast.stmt], dict[str, tuple[str, str]]]:
        """Definitions, and imports as file and name; a module's is its folder and name, which is no file."""
        if file not in self._files:
            path = self._root / file
            body = ast.parse(path.read_text()).body if path.is_file() else []
            imports = {}
            for node in (node for node in body if isinstance(node, ast.ImportFrom)):
                package = (node.module or "").replace(".", "/")
                is_file = (self._root / f"{package}.py").exists()
                for name in node.names:
                    imports[name.asname or name.name] = (f"{package}.py" if is_file else package, name.name)
            self._files[file] = {name: node for node in body for name in _defined(node)}, imports
        return self._files[file]


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def _used(node: ast.stmt) -> Iterator[str]:
    """Names, and as NAME.ATTRIBUTE those of modules, in a function's body or a value."""
    parts: list[ast.AST] = []
    if isinstance(node, ast.FunctionDef):
        parts = [*node.body, *node.decorator_list]
    elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
        parts = [node.value]
    for one in (one for part in parts for one in ast.walk(part)):
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name):
            yield f"{one.value.id}.{one.attr}"
        elif isinstance(one, ast.Name):
            yield one.id
