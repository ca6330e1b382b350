"""`POST /v1/moderations`: what OpenAI's clients call."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest

from proguard_edge.errors import LimitError, ProGuardEdgeError
from proguard_edge.policy import Policy
from proguard_edge.request import Request
from proguard_edge.serve import failures, openai_names
from proguard_edge.serve.bodies import ModerationBody, ModerationRequest
from proguard_edge.serve.content import request_of_parts
from proguard_edge.serve.http import ERRORS, caller_of, judged, moderator_of, refused
from proguard_edge.verdict import Verdict

router = APIRouter()


@router.post("/v1/moderations", response_model=ModerationBody, responses=ERRORS)
async def moderations(body: ModerationRequest, http: HttpRequest) -> Any:
    """Judge a text, a list of texts, or a text with images. One bad text fails the whole list."""
    moderator, caller = moderator_of(http), caller_of(http)
    try:
        requests = _requests(body, moderator.settings.max_inputs)
    except ProGuardEdgeError as error:
        return refused(http, error, "input")
    results = []
    for number, request in enumerate(requests):
        try:
            # The first is admitted or turned away for all of them.
            verdict = await judged(http, moderator.judge(request, caller, bulk=number > 0))
        except ProGuardEdgeError as error:
            listed = len(requests) > 1
            return failures.answer(error, f"input[{number}]" if listed else "input")
        results.append(_result(verdict, moderator.default_policy, caller.request_id))
    return {
        "id": f"modr-{caller.request_id}",
        "model": moderator.facts.artifact,
        "results": results,
    }


def _requests(body: ModerationRequest, limit: int) -> list[Request]:
    if isinstance(body.input, str):
        return [Request(user=body.input)]
    if len(body.input) > limit:
        raise LimitError(f"{len(body.input)} inputs, the limit is {limit}; send them in parts")
    texts = [item for item in body.input if isinstance(item, str)]
    if texts:
        return [Request(user=text) for text in texts]
    return [request_of_parts([item for item in body.input if not isinstance(item, str)])]


def _result(verdict: Verdict, policy: Policy, request_id: str) -> dict[str, Any]:
    return {
        "flagged": verdict.unsafe,
        "categories": openai_names.categories(verdict, policy),
        "category_scores": openai_names.scores(verdict, policy),
        "category_applied_input_types": openai_names.input_types(verdict, policy),
        "proguard": {"id": request_id, **verdict.to_dict()},
    }
