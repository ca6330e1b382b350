"""Ask a moderation server (`proguard-edge serve`) from another program. Needs the extra `client`.

async with AsyncClient("http://127.0.0.1:8080") as client:
    verdict = await client.moderate(user="How do I kill a Python process?")

A request walks through `content` (what is sent) → `aio` (HTTP, retries) → `answers` (strictly
read). Verdicts and errors are those of `proguard_edge.Guard`; all else that happens is an error.
"""

from __future__ import annotations

from proguard_edge.client.aio import AsyncClient, ServedPolicy
from proguard_edge.client.sync import Client

__all__ = ["AsyncClient", "Client", "ServedPolicy"]
