"""Public text sets: how one record of each becomes the fields of a Row.

Every function returns the fields that the record settles (`user`, `response`, labels, categories),
or None for a record without content. They raise KeyError and ValueError for a malformed one.
"""

from __future__ import annotations

from typing import Any

from proguard_edge.train.sources import categories
from proguard_edge.train.sources.categories import mapped
from proguard_edge.train.sources.fields import SAFE_UNSAFE, flag, label, required_text, text
from proguard_edge.train.sources.files import Record
from proguard_edge.train.sources.pictures import Pictures

Fields = dict[str, Any]

MODERATION_CODES = frozenset({"S", "H", "V", "HR", "SH", "S3", "H2", "V2"})
_HARMFUL = {"harmful": "unsafe", "unharmful": "safe"}
# "Needs caution" is between the two: nobody decided.
_AEGIS = {**SAFE_UNSAFE, "needs caution": None}


def openai_moderation(record: Record, _: Pictures) -> Fields:
    """`prompt` and a 0/1 for each code that was labelled (arXiv 2208.03274).

    Any 1 is unsafe; a code that is not there counts as 0, none at all as unlabelled.
    """
    given = [code for code in MODERATION_CODES if record.get(code) is not None]
    codes = [code for code in given if flag(record, code)]
    fields: Fields = {"user": required_text(record, "prompt")}
    if given:
        fields["request_label"] = "unsafe" if codes else "safe"
    if codes:
        table = categories.OPENAI_MODERATION
        fields["source_category"] = ",".join(sorted(codes))
        fields["category"] = next((table[code] for code in table if code in codes), None)
    return fields


def xstest(record: Record, _: Pictures) -> Fields:
    """`prompt`, `type` and, in newer files, `label`; types `contrast_…` are the unsafe ones."""
    kind = required_text(record, "type")
    by_type = "unsafe" if kind.startswith("contrast_") else "safe"
    return {
        "user": required_text(record, "prompt"),
        "request_label": label(record, "label", SAFE_UNSAFE) or by_type,
        "source_category": kind,
    }


def harmbench(record: Record, _: Pictures) -> Fields:
    """`Behavior`, all unsafe; a contextual one refers to `ContextString`, which comes first."""
    behaviour = required_text(record, "Behavior")
    context = text(record, "ContextString")
    kind = required_text(record, "SemanticCategory")
    return {
        "user": behaviour if context is None else f"{context}\n\n{behaviour}",
        "request_label": "unsafe",
        "category": categories.HARMBENCH.get(kind),
        "source_category": kind,
    }


def simple_safety_tests(record: Record, _: Pictures) -> Fields:
    """`prompt` and `harm_area`, all unsafe (arXiv 2311.08370)."""
    area = text(record, "harm_area") or required_text(record, "category")
    return {
        "user": required_text(record, "prompt"),
        "request_label": "unsafe",
        "category": mapped([area], categories.SIMPLE_SAFETY_TESTS),
        "source_category": area,
    }


def toxicchat(record: Record, _: Pictures) -> Fields:
    """`user_input`, `model_output`, `toxicity` 0/1 of the request (arXiv 2310.17389)."""
    return {
        "user": required_text(record, "user_input"),
        "response": text(record, "model_output"),
        "request_label": "unsafe" if flag(record, "toxicity") else "safe",
    }


def aegis2(record: Record, _: Pictures) -> Fields | None:
    """`prompt`, `response`, their labels and `violated_categories`, parted by commas.

    None for a prompt that its publisher withdrew ("REDACTED"): there is nothing to judge.
    """
    user = required_text(record, "prompt")
    if user == "REDACTED":
        return None
    response = text(record, "response")
    listed = [part.strip() for part in (text(record, "violated_categories") or "").split(",")]
    named = [part for part in listed if part and categories.key(part) != "needs caution"]
    fields: Fields = {
        "user": user,
        "response": response,
        "request_label": label(record, "prompt_label", _AEGIS),
        "response_label": label(record, "response_label", _AEGIS) if response else None,
    }
    return {**fields, **_categories(fields, named, categories.AEGIS2)}


def beavertails(record: Record, _: Pictures) -> Fields:
    """`prompt`, `response`, `is_safe` of the exchange (arXiv 2307.04657): a response label only."""
    harms = record.get("category") or {}
    if not isinstance(harms, dict):
        raise ValueError(f"category is not an object but {type(harms).__name__}")
    fields: Fields = {
        "user": required_text(record, "prompt"),
        "response": required_text(record, "response"),
        "response_label": "safe" if flag(record, "is_safe") else "unsafe",
    }
    named = [name for name in harms if flag(harms, name)]
    return {**fields, **_categories(fields, named, categories.BEAVERTAILS)}


def wildguard(record: Record, _: Pictures) -> Fields:
    """`prompt`, `response`, `prompt_harm_label`, `response_harm_label` (arXiv 2406.18495)."""
    response = text(record, "response")
    fields: Fields = {
        "user": required_text(record, "prompt"),
        "response": response,
        "request_label": label(record, "prompt_harm_label", _HARMFUL),
        "response_label": label(record, "response_harm_label", _HARMFUL) if response else None,
    }
    kind = text(record, "subcategory")
    return {**fields, **_categories(fields, [kind] if kind else [], categories.WILDGUARD)}


def _categories(fields: Fields, named: list[str], table: dict[str, str]) -> Fields:
    """The category fields; a policy id only where something is labelled unsafe."""
    unsafe = "unsafe" in (fields.get("request_label"), fields.get("response_label"))
    return {
        "category": mapped(named, table) if unsafe else None,
        "source_category": ", ".join(named) or None,
    }
