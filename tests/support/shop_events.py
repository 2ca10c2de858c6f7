"""A made-up store, as a person would write it down: JSON lines. Tastes go by country and tag; the first places sell."""

import json
from pathlib import Path
from typing import Any

import numpy as np

START_MS = 1_767_600_000_000
TAGS = ["board", "card", "chess", "dice", "party", "puzzle", "war"]
COUNTRIES = ["NO", "SE", "DK", "FI"]


def store(pages: int = 3_000, seed: int = 0) -> list[dict[str, Any]]:
    """120 users, 60 items, pages of 6 items; about one page in three ends in an install, minutes later."""
    random = np.random.default_rng(seed)
    lines: list[dict[str, Any]] = []
    tags = []
    for n in range(60):
        tags.append(sorted(random.choice(TAGS, 1 + n % 2, replace=False).tolist()))
        price = round(float(random.lognormal(2, 0.5)), 2)
        attributes = {"tags": tags[n], "price": price, "maker": 10_115 + 7 * (n % 20), "sku": 70_001 + n}
        lines.append({"type": "item", "item": f"i{n}", "title": f"Game {n}", "attributes": attributes})
    for n in range(120):
        attributes = {"country": COUNTRIES[n % 4], "age": int(random.integers(16, 80)), "name": f"User the {n}th",
                      "planet": "Earth"}  # fmt: skip
        lines.append({"type": "user", "user": f"u{n}", "attributes": attributes})
    for n in range(pages):
        user = int(random.integers(120))
        items = random.choice(60, 6, replace=False)
        at_ms = START_MS + 60_000 * n
        context = {"device": ["phone", "desk"][n % 2], "hour": float(n // 60 % 24)}
        page = {"type": "impression", "request_id": f"r{n}", "time_ms": at_ms, "user": f"u{user}"}
        page |= {"items": [f"i{i}" for i in items], "context": context}
        lines.append(page)
        for place, item in enumerate(items):
            liked = TAGS[user % 4] in tags[item]
            if random.random() < (0.25 if liked else 0.02) / (1 + 0.4 * place):
                delay_ms = int(min(55_000, random.lognormal(9.5, 0.6)))
                lines.append({"type": "install", "request_id": f"r{n}", "time_ms": at_ms + delay_ms, "user": f"u{user}",
                              "item": f"i{item}", "install_id": f"x{n}-{place}"})  # fmt: skip
    head, rest = lines[:180], lines[180:]
    return [*head, *sorted(rest, key=lambda line: line["time_ms"])]


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    """These lines in a file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
