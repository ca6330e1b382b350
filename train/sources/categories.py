"""Categories of public data sets as ids of the default policy, where there is no doubt.

A source category is left out of its table when its definition takes in things that two of our
categories share, or things that ours does not have: no category is better than a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# Left out: S (erotic text is C3S3 or C11), HR (harassment without a group is nobody's).
# In this order: the graver code, and a group as the target, say more than the plain ones.
OPENAI_MODERATION = {
    "S3": "C11S1",
    "H2": "C7S1",
    "H": "C7S1",
    "SH": "C9S1",
    "V2": "C9S3",
    "V": "C9S3",
}

# Left out: illegal and harmful (mixed), harassment_bullying (C7S1 needs a group).
HARMBENCH = {
    "copyright": "C1S1",
    "cybercrime_intrusion": "C4",
    "misinformation_disinformation": "C2S1",
    "chemical_biological": "C8S2",
}

# Left out: child abuse (violence and sexual content alike).
SIMPLE_SAFETY_TESTS = {
    "suicide self harm and eating disorders": "C9S1",
    "illegal and highly regulated items": "C8",
    "physical harm and violence": "C9S3",
    "physical harm": "C9S3",
    "scams and fraud": "C3S1",
}

# Left out: violence and threat (acts or their depiction), sexual (C3S3 or C11), criminal planning,
# illegal activity, profanity, harassment, political, unauthorized advice, unethical, other.
AEGIS2 = {
    "hate identity hate": "C7S1",
    "guns and illegal weapons": "C8S1",
    "controlled regulated substances": "C8S3",
    "suicide and self harm": "C9S1",
    "sexual minor": "C11S1",
    "pii privacy": "C2S2",
    "malware": "C4S2",
    "fraud deception": "C3S1",
    "manipulation": "C3S2",
    "copyright trademark plagiarism": "C1",
}

# Left out: child abuse, politics, hate speech *and offensive language*, financial *and property*
# crime, misinformation (mostly bad advice), unethical, sexual, terrorism *and organized crime*.
BEAVERTAILS = {
    "animal abuse": "C9S2",
    "discrimination stereotype injustice": "C7S1",
    "drug abuse weapons banned substance": "C8",
    "privacy violation": "C2S2",
    "self harm": "C9S1",
    "violence aiding and abetting incitement": "C9S3",
}

# Left out: toxic language, sexual content, mental health, defamation, illegal activities, others.
WILDGUARD = {
    "social stereotypes and unfair discrimination": "C7S1",
    "violence and physical harm": "C9S3",
    "copyright violations": "C1",
    "private information individual": "C2S2",
    "sensitive information organization": "C2S2",
    "sensitive information organization government": "C2S2",
    "cyberattack": "C4",
    "causing material harm by disseminating misinformation": "C2S1",
}

# Left out: O1 (also humiliation), O2 (acts or their depiction), O3, O5, O9 (C5 or C10S2).
LLAVAGUARD = {"o4": "C11", "o6": "C8", "o7": "C9S1", "o8": "C9S2"}

# Left out: horror and gore (C7S3 or C10), sexual ones, health, impersonation, dangerous behaviour,
# fraud (C3S1 or C6S1), relationships, insults.
BEAVERTAILS_V = {
    "animal abuse": "C9S2",
    "discriminatory depictions": "C7S1",
    "environmental damage": "C5",
    "false information": "C2S1",
    "hacking or digital crime": "C4",
    "privacy invasion and surveillance": "C2S2",
    "psychological harm and manipulation": "C3S2",
    "terrorism or extremism": "C7S2",
    "violence and physical harm": "C9S3",
}


def key(name: str) -> str:
    """The form in which the tables hold a name: lower case words, one space apart."""
    return " ".join(re.findall(r"[a-z0-9]+", name.lower()))


def mapped(names: Iterable[str], table: Mapping[str, str]) -> str | None:
    """The one id that all these source categories map to; None when any is in doubt."""
    ids = {table.get(key(name)) for name in names}
    return ids.pop() if len(ids) == 1 else None
