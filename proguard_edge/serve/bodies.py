"""What clients send and get, as the OpenAPI description shows it. Unknown fields are refused:
content under a name that nobody reads would pass unseen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from proguard_edge.request import MAX_IMAGES, MAX_TEXT_CHARS

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQ"
    "DJ/pLvAAAAAElFTkSuQmCC"
)
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
# A list is checked item by item, and each that is wrong is told: what it may hold has an end.
MAX_TEXTS, MAX_PARTS = 2048, 64
Mode = Literal["verdict", "reason"]


class Strict(BaseModel):
    """No field but the listed ones, and no number for a text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ImageUrl(Strict):
    """`url`: a data URL, `data:image/png;base64,…`. Addresses are refused: nothing is fetched."""

    url: str = Field(examples=[PIXEL])
    detail: Literal["auto", "low", "high"] | None = None


class TextPart(Strict):
    """A text of a multi-modal input."""

    type: Literal["text"]
    text: Text


class ImagePart(Strict):
    """An image of a multi-modal input."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class ModerationRequest(Strict):
    """OpenAI's request. A text, a list of texts (one result each), or parts (one result)."""

    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
        | Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]
    )
    model: str | None = Field(None, description="Any name; the loaded artifact answers.")


class Judged(BaseModel):
    """A label and the probability that the thing is unsafe."""

    label: Literal["safe", "unsafe"]
    score: float = Field(ge=0, le=1)


class Category(BaseModel):
    """`id` is null where the model named a risk that the policy does not have."""

    id: str | None
    name: str
    in_policy: bool
    score: float


class VerdictBody(BaseModel):
    """A verdict; see the README."""

    id: str
    request: Judged
    response: Judged | None
    category: Category | None
    reasoning: str | None
    evaluated: list[str]
    mode: Mode
    artifact: str
    tokens: dict[str, int]
    timings_ms: dict[str, float]


class ModerationResult(BaseModel):
    """OpenAI's result, and the verdict beside it.

    Names of OpenAI's and ids of the policy; null is what was not evaluated, and never safe.
    """

    flagged: bool
    categories: dict[str, bool | None]
    category_scores: dict[str, float | None]
    category_applied_input_types: dict[str, list[Literal["text", "image"]]]
    proguard: VerdictBody


class ModerationBody(BaseModel):
    """OpenAI's answer."""

    id: str
    model: str
    results: list[ModerationResult]


class InlinePolicy(BaseModel):
    """A policy, laid out as in a policy file."""

    model_config = ConfigDict(extra="allow")
    name: str
    categories: list[dict[str, Any]] = Field(min_length=1, max_length=2000)


class VerdictRequest(Strict):
    """A conversation to judge: user turn, images, and the agent's response; at least one."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [{"required": [name]} for name in ("user", "response", "image")]
        }
    )

    user: Text | None = None
    response: Text | None = None
    image: str | Annotated[list[str], Field(max_length=MAX_IMAGES)] | None = Field(
        None, description="A data URL, or several."
    )
    policy: str | InlinePolicy | None = Field(
        None, description="A name from /v1/policies, or a policy; null is the artifact's own."
    )
    mode: Mode | None = Field(None, description="null is the server's default.")


class ErrorDetail(BaseModel):
    """`code` is the class of the error: ImageError, BusyError …"""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """OpenAI's error."""

    error: ErrorDetail


class PolicyEntry(BaseModel):
    """A policy that requests may name."""

    name: str
    title: str
    version: str
    digest: str
    categories: list[dict[str, Any]]


class PoliciesBody(BaseModel):
    """The policies that requests may name, and whether they may bring their own."""

    policies: list[PolicyEntry]
    inline: bool
