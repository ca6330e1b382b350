"""Whether an artifact that reads some languages only can read a text.

A guard that was trained on English calls harmful Italian "safe". So a "safe" on a text in a
language that the artifact does not read is withheld; an "unsafe" stands in any language.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Any

# Below this probability a language is ruled out. On English text of public sets 3 to 6 in 1,000 are
# then taken for another language, and of 8 other languages 93 to 100 in 100 are recognised.
RULED_OUT = 0.01
# "ok lol" has no language: fewer Latin words, or other letters, than these are not looked at.
MIN_WORDS = 4
MIN_LETTERS = 6

_NOISE = re.compile(r"https?://\S+|www\.\S+|[@#]\w+|<[^<>\s]{1,30}>")
_LATIN_WORD = re.compile(r"[A-Za-zªºÀ-ɏḀ-ỿ]+")
_OTHER_LETTERS = re.compile(r"[^\W\d_A-Za-zªµºÀ-ɏḀ-ỿ]+")


def unread_language(text: str, languages: Collection[str]) -> str | None:
    """The language (ISO 639-1) that the text seems to be in, when it is none of `languages`.

    Words in Latin letters and in any other letters are looked at apart, so that a sentence in
    another script stays visible inside an English text. None: readable, or too short to tell.
    """
    if not languages:
        return None
    text = _NOISE.sub(" ", text)
    latin = _LATIN_WORD.findall(text)
    other = _OTHER_LETTERS.findall(text)
    parts = []
    if sum(map(len, other)) >= MIN_LETTERS:
        parts.append(_LATIN_WORD.sub(" ", text))
    if len(latin) >= MIN_WORDS:
        parts.append(" ".join(latin) if other else text)
    for part in parts:
        ranked = _identifier().rank(part)
        if max(p for name, p in ranked if name in languages) < RULED_OUT:
            return str(ranked[0][0])
    return None


@cache
def _identifier() -> Any:
    # Loaded with the first text: 0.15 s, and artifacts that read everything never need it.
    import numpy as np
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    class Sparse(LanguageIdentifier):  # type: ignore[misc]
        def nb_classprobs(self, fv: Any) -> Any:
            # A text has some 100 of the 7,480 features, and the table is often out of the caches.
            seen = np.flatnonzero(fv)
            return fv[seen] @ self.nb_ptc[seen] + self.nb_pc

    return Sparse.from_pickled_model(MODEL_FILE, norm_probs=True)
