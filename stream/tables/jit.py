"""Compiling: numba's decorator as all kernels here use it, and what makes its cache notice a change."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def edition(function: Callable[..., Any]) -> str:
    """A digest of a kernel's file, and of the editions of all kernels that the file imports, alone or as a module."""
    named = [*function.__globals__.values()]
    ours = function.__module__.partition(".")[0]
    for module in named.copy():
        if isinstance(module, ModuleType) and module.__name__.startswith((f"{ours}.", "stream.")):
            named += vars(module).values()
    imported = {
        value.py_func.__qualname__.rpartition("-")[2]
        for value in named
        if hasattr(value, "py_func") and value.py_func.__module__ != function.__module__
    }
    source = Path(function.__code__.co_filename).read_bytes()
    return hashlib.blake2b(source + ",".join(sorted(imported)).encode(), digest_size=4).hexdigest()


def kernel(function: F) -> F:
    """Compile with numba, cached on disk, without the GIL. Arrays are Any to the type checker: numba checks them.

    A division by zero is inf or nan, as in numpy. Kernels are compiled into kernels of other files, whose caches
    wouldn't notice that they changed: so the edition is part of their names.
    """
    function.__qualname__ += f"-{edition(function)}"
    compiled: Any = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast(F, compiled)
