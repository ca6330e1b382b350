"""OpenAI's category names, and which of our default policy's categories fall under each.

Only where the meaning is the same, or narrower than OpenAI's. Found by the category's name, so that
a policy that means something else by an id is not misread.
"""

from __future__ import annotations

from proguard_edge.policy import Policy
from proguard_edge.verdict import Verdict

NAMES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
_OF = {
    "Fraud and Scams": ("illicit",),
    "Sexual Suggestive Content": ("sexual",),
    "System Intrusion and Vulnerabilities": ("illicit",),
    "Malicious Software and Hacking Tools": ("illicit",),
    "Financial Fraud": ("illicit",),
    "Illegal Trade": ("illicit",),
    "Hate Speech and Discrimination": ("hate",),
    "Horrific Content": ("violence/graphic",),
    "Weapons": ("illicit", "illicit/violent"),
    "Biological, Chemical, and Radioactive Materials": ("illicit", "illicit/violent"),
    "Illegal Drugs and Narcotics": ("illicit",),
    "Self-Harm and Suicide": ("self-harm",),
    "Animal Abuse": ("violence",),
    "Violent and Property Crime": ("illicit", "violence"),
    "Accident Scenes": ("violence/graphic",),
    "Killing Scenes": ("violence", "violence/graphic"),
    "Inappropriate Exposure of Minors": ("sexual", "sexual/minors"),
    "Exposure of Sexual Organs": ("sexual",),
}


def categories(verdict: Verdict, policy: Policy) -> dict[str, bool | None]:
    """Whether the verdict falls under each name of OpenAI's and each id of the policy.

    None where the policy has nothing under a name: that risk was not looked for. A verdict names
    one category; the others of the policy are False.
    """
    covered = {name for leaf in policy.leaves() for name in _OF.get(leaf.name, ())}
    named = _named(verdict)
    return {
        **{name: name in named if name in covered else None for name in NAMES},
        **{leaf.id: leaf.id in named for leaf in policy.leaves()},
    }


def scores(verdict: Verdict, policy: Policy) -> dict[str, float | None]:
    """P(unsafe and of the category that was named), under its names; None for all others.

    The model weighs a category only when it names one: what it did not weigh has no score, which
    is not 0.
    """
    named = _named(verdict)
    risk = verdict.category
    score = verdict.score * risk.score if risk is not None else None
    every = (*NAMES, *(leaf.id for leaf in policy.leaves()))
    return {name: score if name in named else None for name in every}


def input_types(verdict: Verdict, policy: Policy) -> dict[str, list[str]]:
    """What was looked at for each name; nothing for a name that the policy does not cover."""
    parts = set(verdict.evaluated)
    seen = [
        *(["text"] if parts & {"user_text", "response"} else []),
        *(["image"] if parts & {"image", "image_text"} else []),
    ]
    found = categories(verdict, policy)
    return {name: seen if value is not None else [] for name, value in found.items()}


def _named(verdict: Verdict) -> set[str]:
    risk = verdict.category
    if risk is None or risk.id is None:
        return set()
    return {risk.id, *_OF.get(risk.name, ())}
