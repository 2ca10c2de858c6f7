"""Users' pages: what the console remembers of a ranker's answers."""

from contextlib import closing

import httpx

from stream.runtime.settings import Settings
from thalweg.console.users import UserPages


def test_a_title_that_was_refused_once_is_asked_for_again() -> None:
    """An overloaded ranker's answer isn't remembered; a title is, and that an item is unknown."""
    answers = [httpx.Response(503, json={}), httpx.Response(200, json={"title": "Chess"}), httpx.Response(404, json={})]
    with closing(UserPages(Settings(), "store", lambda: "127.0.0.1:1")) as pages:
        pages._http.close()
        pages._http = httpx.Client(transport=httpx.MockTransport(lambda _: answers.pop(0)))
        assert [pages._title("chess") for _ in range(3)] == ["", "Chess", "Chess"]
        assert [pages._title("none") for _ in range(2)] == ["", ""]
