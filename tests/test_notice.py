"""Code that is derived from others' carries their licence, wherever it goes."""

from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_xxhash_is_named_with_its_licence() -> None:
    """The derived file names author and licence, NOTICE has the whole text, and images get it too."""
    notice, source = (ROOT / "NOTICE").read_text(), (ROOT / "stream/tables/xxh3.py").read_text()
    for text in (notice, source):
        assert "Copyright (c) 2012-2021 Yann Collet" in text
        assert "all rights reserved" in text.lower()
    assert "SPDX-License-Identifier: BSD-2-Clause" in source
    for passage in ("Redistributions of source code", "Redistributions in binary form", "PROVIDED BY THE COPYRIGHT"):
        assert passage in notice
    assert "!NOTICE" in (ROOT / ".dockerignore").read_text().splitlines()
