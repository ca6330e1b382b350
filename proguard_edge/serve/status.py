"""Routes that look at the server: health, readiness, metrics, policies, the recent past."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from proguard_edge.policy import Policy
from proguard_edge.serve.bodies import PoliciesBody
from proguard_edge.serve.http import ERRORS, moderator_of
from proguard_edge.serve.moderator import DEFAULT
from proguard_edge.unseen import Group, group_names, policy_draft

router = APIRouter()
_DENIED: dict[int | str, dict[str, Any]] = {s: ERRORS[s] for s in (401, 403)}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers. Whether it can judge, /readyz says."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "Not ready."}})
async def readyz(http: HttpRequest) -> Any:
    """200 where a request would be judged now, else 503."""
    ready = moderator_of(http).ready
    return JSONResponse({"ready": ready}, 200 if ready else 503)


@router.get("/metrics", response_class=PlainTextResponse, responses=_DENIED)
async def metrics(http: HttpRequest) -> Response:
    """Prometheus' text format."""
    text = moderator_of(http).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/policies", response_model=PoliciesBody, responses=_DENIED)
async def policies(http: HttpRequest) -> Any:
    """The policies that a request may name."""
    moderator = moderator_of(http)
    named = {DEFAULT: moderator.default_policy, **moderator.settings.policies}
    inline = moderator.settings.inline_policies and not moderator.facts.policy_is_fixed
    return {"policies": [_entry(name, each) for name, each in named.items()], "inline": inline}


@router.get("/v1/status", responses=_DENIED)
async def status(http: HttpRequest) -> dict[str, Any]:
    """What the page shows: the artifact, the queue, latencies, the last verdicts (no content)."""
    moderator = moderator_of(http)
    facts, recent = moderator.facts, moderator.recent
    return {
        "artifact": {"name": facts.artifact, "digest": facts.digest},
        "engine": {"kind": facts.engine, "device": facts.device},
        "modalities": list(facts.modalities),
        "image_text_only": moderator.settings.guard.image_text_only,
        "modes": list(facts.modes),
        "mode": moderator.settings.default_mode,
        "ready": moderator.ready,
        "workers": {
            "ready": moderator.pool.ready,
            "all": moderator.settings.workers,
            "restarts": moderator.pool.restarts,
        },
        "queue": moderator.pool.waiting,
        "verdicts": recent.verdicts,
        "errors": recent.errors,
        "since": recent.since,
        "seconds": {"p50": recent.quantile(0.5), "p95": recent.quantile(0.95)},
        "recent": recent.lines(),
    }


@router.get("/v1/unseen", responses=_DENIED)
async def unseen(http: HttpRequest) -> dict[str, Any]:
    """Risks that the model named and the policy lacks, similar names in one group."""
    return {
        "groups": [
            {"name": group.name, "count": group.count, "names": [list(n) for n in group.names]}
            for group in await _groups(http)
        ]
    }


@router.get("/v1/unseen/policy", response_class=PlainTextResponse, responses={**_DENIED, 404: {}})
async def draft(http: HttpRequest) -> Response:
    """The groups as a draft of a policy (YAML) that a person finishes."""
    groups = await _groups(http)
    if not groups:
        return PlainTextResponse("no unseen risk was named yet\n", 404)
    return Response(policy_draft(groups).to_yaml(), media_type="application/yaml")


async def _groups(http: HttpRequest) -> list[Group]:
    """In a thread: thousands of names take a good part of a second."""
    return await asyncio.to_thread(group_names, dict(moderator_of(http).recent.unseen))


def _entry(name: str, policy: Policy) -> dict[str, Any]:
    return {
        "name": name,
        "title": policy.name,
        "version": policy.version,
        "digest": policy.digest(),
        "categories": [
            {"id": c.id, "name": c.name, "description": c.description} for c in policy.categories
        ],
    }
