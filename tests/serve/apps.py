"""The application in this process, its children stubs: what the tests of routes talk to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.testclient import TestClient
from stubs import make_judge

from proguard_edge.serve.app import create_app
from proguard_edge.serve.moderator import Moderator
from proguard_edge.serve.pool import Limits
from proguard_edge.serve.settings import Settings


@contextmanager
def serving(**options: Any) -> Iterator[TestClient]:
    """A client of an application with these settings; `client.moderator` is what it serves."""
    options.setdefault("limits", Limits(start_s=30, hang_s=30))
    settings = Settings(**options)
    moderator = Moderator(settings, make_judge)
    with TestClient(create_app(settings, moderator)) as client:
        assert client.portal is not None
        client.portal.call(moderator.start)
        client.moderator = moderator  # type: ignore[attr-defined]
        try:
            while not moderator.ready:
                pass
            yield client
        finally:
            client.portal.call(moderator.stop)
