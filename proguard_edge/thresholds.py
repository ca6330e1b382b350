"""Per-category thresholds: from which score on content of one category is "unsafe".

A label is decided at 0.5, before the category is known. Where a category begins lower, a score in
between decides nothing yet: the model is asked which category it would be, and the score is then
compared with that one's threshold. Moved scores keep "unsafe from 0.5 on".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from proguard_edge.answer import Answer, Label
from proguard_edge.artifact import Artifact, Calibration
from proguard_edge.decoding import Decoded
from proguard_edge.errors import ArtifactError
from proguard_edge.policy import Policy

COMMON = 0.5
JUST_BELOW = math.nextafter(COMMON, 0)


@dataclass(frozen=True)
class Thresholds:
    """Part → id of the policy → score; categories that are not named begin at 0.5."""

    by_part: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, artifact: Artifact, own: Policy, policy: Policy) -> Thresholds:
        """Those that an artifact has for `policy`; own: the artifact's policy.

        A subcategory without a threshold has its parent's. Another policy may mean another thing
        by an id: only categories of the same name keep theirs. Raises ArtifactError for an id that
        the artifact's policy lacks.
        """
        names = {category.id: category.name for category in own.categories}
        same = [c for c in policy.categories if names.get(c.id) == c.name]
        found: dict[str, dict[str, float]] = {}
        for part, by_id in artifact.category_thresholds.items():
            if unknown := sorted(set(by_id) - set(names)):
                raise ArtifactError(
                    f"{artifact.name}: a threshold for {unknown[0]}, which its policy does not "
                    "have; `proguard-edge calibrate --per-category` fits them anew"
                )
            for category in same:
                for key in (category.id, category.parent):
                    if key is not None and key in by_id:
                        found.setdefault(part, {})[category.id] = by_id[key]
                        break
        return cls(found)

    def possible(self, scores: Mapping[str, float]) -> dict[str, Label]:
        """The label of each part if its category were the one that begins lowest."""
        return {p: "unsafe" if s >= self._lowest(p) else "safe" for p, s in scores.items()}

    def settle(self, found: Decoded, named: Decoded) -> Decoded:
        """`found` with the scores and labels that the category of `named` gives it."""
        if not self.by_part:
            return found
        category = named.answer.category
        scores = {p: self._moved(p, s, category) for p, s in found.scores.items()}
        labels: dict[str, Label] = {
            p: "unsafe" if s >= COMMON else "safe" for p, s in scores.items()
        }
        unsafe = "unsafe" in labels.values()
        answer = Answer(labels["request"], labels.get("response"), category if unsafe else None)
        return replace(found, answer=answer, scores=scores, category_score=named.category_score)

    def _lowest(self, part: str) -> float:
        return min([COMMON, *self.by_part.get(part, {}).values()])

    def _moved(self, part: str, score: float, category: str | None) -> float:
        threshold = self.by_part.get(part, {}).get(category or "", COMMON)
        if threshold == COMMON or score < self._lowest(part) or score >= 1:
            return score
        plain = Calibration()
        moved = Calibration(bias=plain.difference(threshold)).score(plain.difference(score))
        # Rounding must not carry a score over the threshold, in either direction.
        return max(moved, COMMON) if score >= threshold else min(moved, JUST_BELOW)
