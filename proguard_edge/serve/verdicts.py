"""`POST /v1/verdicts` and its stream: conversations, policies by name or inline, modes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from proguard_edge.errors import PolicyError, ProGuardEdgeError
from proguard_edge.policies.reader import policy_of
from proguard_edge.policy import Policy
from proguard_edge.serve import failures
from proguard_edge.serve.bodies import InlinePolicy, VerdictBody, VerdictRequest
from proguard_edge.serve.content import request_of
from proguard_edge.serve.http import ERRORS, caller_of, judged, moderator_of, refused
from proguard_edge.serve.moderator import Moderator

router = APIRouter()


@router.post("/v1/verdicts", response_model=VerdictBody, responses=ERRORS)
async def verdicts(body: VerdictRequest, http: HttpRequest) -> Any:
    """The verdict on a conversation."""
    moderator, caller = moderator_of(http), caller_of(http)
    try:
        request, policy = request_of(body), chosen_policy(moderator, body)
    except ProGuardEdgeError as error:
        return refused(http, error)
    try:
        work = moderator.judge(request, caller, policy=policy, mode=body.mode)
        verdict = await judged(http, work)
    except ProGuardEdgeError as error:
        return failures.answer(error)
    return {"id": caller.request_id, **verdict.to_dict()}


def chosen_policy(moderator: Moderator, body: VerdictRequest) -> Policy:
    """The policy that a request names or brings. Raises PolicyError."""
    if not isinstance(body.policy, InlinePolicy):
        return moderator.policy(body.policy)
    if not moderator.settings.inline_policies:
        raise PolicyError("this server takes no policy from requests; name one of /v1/policies")
    return policy_of({"version": "1", **body.policy.model_dump()})
