"""One server with the starter for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import served


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running `proguard-edge serve`, such as "http://127.0.0.1:8080"."""
    pytest.importorskip("uvicorn")
    cache = tmp_path_factory.getbasetemp() / "cache"
    with served(tmp_path_factory.mktemp("server") / "log.txt", cache=cache) as running:
        yield running.url
