"""Code that is derived from others' carries their licence, wherever it goes."""

import gzip
import re
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


def test_rapidoc_is_named_with_its_licence() -> None:
    """NOTICE has RapiDoc's version, author and licence, and names what its script contains."""
    notice = (ROOT / "NOTICE").read_text()
    script = gzip.decompress((ROOT / "ranker/http/assets/rapidoc-min.js.gz").read_bytes()).decode()
    (version,) = set(re.findall(r"RapiDoc (\d+\.\d+\.\d+) \|", script))
    assert f"RapiDoc {version}\n" in notice
    assert "Copyright (c) 2022 Mrinmoy Majumdar" in notice
    assert "Permission is hereby granted, free of charge" in notice
