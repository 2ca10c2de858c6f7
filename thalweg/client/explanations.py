"""Asks a ranker over HTTP why a user's page is as it is."""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlencode

import httpx
import msgspec

from stream.events.named_explanations import Explanation
from thalweg.client.calls import headers_of
from thalweg.client.client import url_of
from thalweg.client.errors import Failed, Unreachable, error_of

TIMEOUT_S: Final = 10.0


def explain(
    address: str,
    user: str,
    item: str = "",
    *,
    k: int = 10,
    model: str = "",
    context: Mapping[str, str] | None = None,
    rules: Sequence[str] = (),
    token: str = "",
) -> Explanation:
    """The page of `k` items that the user would get now, or `item` alone. One try: it's for people, not for pages.

    `rules`: names of rules of the spec, or rules as JSON. Raises ClientError, ValueError for a bad address or token.
    """
    url, headers = url_of(address), headers_of(token)
    query = [
        ("user", user),
        ("k", str(k)),
        *((name, value) for name, value in (("item", item), ("model", model)) if value),
    ]
    query += [(f"context.{name}", value) for name, value in (context or {}).items()]
    query += [("rule", rule) for rule in rules]
    try:
        answer = httpx.get(
            f"{url}/v1/explain", params=urlencode(query), headers=headers, timeout=TIMEOUT_S, trust_env=False
        )
    except httpx.RequestError as error:
        raise Unreachable(
            "No answer", f"{url}: {error}", "does a ranker run there with --http?", type="unreachable"
        ) from None
    if answer.status_code != 200:
        raise error_of(answer.status_code, answer.content, answer.headers.get("retry-after"))
    try:
        return msgspec.json.decode(answer.content, type=Explanation)
    except (msgspec.DecodeError, UnicodeDecodeError) as bad:
        raise Failed(
            "The answer isn't an explanation", str(bad), "look at the address: does a ranker listen there?",
            type="foreign_answer", status=200,
        ) from None  # fmt: skip
