"""any-guardrail: a guardrail that judges in this process, or asks a proguard-edge server.

    from proguard_edge.integrations.any_guardrail import ProGuardEdge

    with ProGuardEdge() as guardrail:  # the starter; or artifact=FOLDER, or server=URL
        guardrail.validate("How do I kill a Python process?").valid

It is made directly, because `AnyGuardrail.create` knows its own names only. What cannot be judged
is an exception of `proguard_edge.errors` and never a valid output.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from any_guardrail.base import ThreeStageGuardrail
from any_guardrail.taxonomy import (
    BackendType,
    GuardrailCategory,
    GuardrailMetadata,
    GuardrailStage,
    OutputShape,
)
from any_guardrail.types import (
    CategoryResult,
    GuardrailInferenceOutput,
    GuardrailOutput,
    GuardrailPreprocessOutput,
    GuardrailUsage,
)

from proguard_edge.closing import Closing
from proguard_edge.errors import PolicyError
from proguard_edge.policy import Policy
from proguard_edge.request import Request
from proguard_edge.template import Mode
from proguard_edge.verdict import Verdict

if TYPE_CHECKING:
    from proguard_edge.request import ImageSource


class ProGuardEdge(ThreeStageGuardrail[Request, Verdict], Closing):  # type: ignore[misc, unused-ignore]
    """Guard model (ProGuard) that judges text and images under a policy, locally."""

    SUPPORTED_MODELS: ClassVar[list[str]] = ["starter"]
    METADATA: ClassVar[GuardrailMetadata] = GuardrailMetadata(
        description="Guard model (ProGuard) that judges text and images under a policy, locally.",
        display_name="proguard-edge",
        categories=frozenset({GuardrailCategory.CONTENT_SAFETY}),
        primary_category=GuardrailCategory.CONTENT_SAFETY,
        stages=frozenset({GuardrailStage.INPUT, GuardrailStage.OUTPUT}),
        output_shapes=frozenset({OutputShape.CATEGORICAL, OutputShape.SCORE}),
        backend=BackendType.LOCAL_DECODER,
        alternate_backends=frozenset({BackendType.HOSTED_API}),
        optional_validate_kwargs=frozenset({"output_text", "image"}),
        multimodal=True,
        vendor="proguard-edge",
        default_license="see CARD.md of the starter",
    )

    def __init__(
        self,
        artifact: Path | str | None = None,
        *,
        server: str | None = None,
        api_key: str | None = None,
        policy: Policy | str | None = None,
        mode: Mode = "verdict",
        **loading: Any,
    ) -> None:
        """artifact: a folder, None = the starter. server: http://HOST:PORT to ask instead.

        policy: None = the artifact's, or the server's; a name where a server knows it. loading:
        further arguments of `Guard.load`, or of `Client`. Raises ArtifactError, EngineError.
        """
        self._policy, self._mode = policy, mode
        self._judge: Any
        if server is not None:
            from proguard_edge.client import Client

            self._judge = Client(server, api_key, **loading)
            return
        from proguard_edge.guard import Guard

        if isinstance(policy, str):
            raise PolicyError(f"{policy!r:.80}: names of policies are known to servers; load it")
        self._judge = Guard.load(artifact, **loading)

    def _pre_processing(
        self,
        input_text: str | None = None,
        output_text: str | None = None,
        image: ImageSource | Iterable[ImageSource] | None = None,
    ) -> GuardrailPreprocessOutput[Request]:
        return GuardrailPreprocessOutput(data=Request.of(input_text, image, output_text))

    def _inference(
        self, model_inputs: GuardrailPreprocessOutput[Request]
    ) -> GuardrailInferenceOutput[Verdict]:
        verdict = self._judge.judge(model_inputs.data, policy=self._policy, mode=self._mode)
        return GuardrailInferenceOutput(data=verdict)

    def _post_processing(self, model_outputs: GuardrailInferenceOutput[Verdict]) -> GuardrailOutput:
        verdict = model_outputs.data
        tokens = verdict.tokens
        return GuardrailOutput(
            valid=not verdict.unsafe,
            score=verdict.score,
            explanation=verdict.reasoning,
            categories=_categories(verdict),
            usage=GuardrailUsage(
                model_id=verdict.artifact,
                prompt_tokens=tokens.get("prefix", 0) + tokens.get("content", 0),
                completion_tokens=tokens.get("generated"),
            ),
            extra=verdict.to_dict(),
            raw=verdict,
        )

    def close(self) -> None:
        """Free the model, or close the connections."""
        self._judge.close()


def _categories(verdict: Verdict) -> list[CategoryResult]:
    """The category that was named; those of the policy that were not have no scores."""
    risk = verdict.category
    if risk is None:
        return []
    name = risk.id or risk.name
    return [CategoryResult(name=name, description=risk.name, triggered=True, score=risk.score)]
