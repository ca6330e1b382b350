"""Calibration sets: the few rows that a quantizer looks at, drawn so that every kind is there.

    chosen = draw(rows, 256, seed=0)
    samples = render(chosen, builder)

A stratum is a modality, a label and a category. Modalities share the size alike, so do labels
within a modality and categories within a label: by row counts alone a set would be harmless chat.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from proguard_edge.answer import is_id_like
from proguard_edge.artifact.format import file_digest
from proguard_edge.errors import InputError, ProGuardEdgeError
from proguard_edge.train.report import NO_CATEGORY, Counts, count_rows, row_label
from proguard_edge.train.rows import Row, RowError
from proguard_edge.train.sampling import fill, normalised
from proguard_edge.train.sft_data import Sample, SampleBuilder

Stratum = tuple[str, str, str]


@dataclass(frozen=True)
class CalibrationSet:
    """Drawn rows, shuffled.

    digest: sha256 (hex) over ids, labels, texts and picture bytes of the rows, in the order of
    their ids: two draws with one digest hold the same rows.
    """

    rows: tuple[Row, ...]
    seed: int
    digest: str

    @property
    def counts(self) -> Counts:
        """modality → label → category → rows."""
        return count_rows(self.rows)

    def to_dict(self) -> dict[str, Any]:
        """For a manifest: how many rows of what, from where, and the digest of their bytes."""
        return {
            "rows": len(self.rows),
            "seed": self.seed,
            "digest": self.digest,
            "strata": self.counts,
            "sources": dict(sorted(Counter(row.source for row in self.rows).items())),
        }


class Samples(list[Sample]):
    """Rendered rows. `skipped`: reason (an error's type) → rows that gave no sample."""

    def __init__(self, samples: Iterable[Sample], skipped: Mapping[str, int]) -> None:
        super().__init__(samples)
        self.skipped = dict(skipped)


def draw(rows: Iterable[Row], size: int, seed: int) -> CalibrationSet:
    """`size` different rows of all strata; all rows where there are not more.

    Every stratum has one row or more as long as `size` allows; none gives a row twice. Rows that
    share their id, or their normalised texts and picture, count as one. The draw depends on the
    rows and the seed, not on the order. Raises ValueError for a size below 1, RowError for a
    picture that cannot be read.
    """
    if size < 1:
        raise ValueError(f"a calibration set of {size} rows")
    pools: dict[Stratum, list[tuple[Row, str]]] = defaultdict(list)
    for row, content in _distinct(rows):
        pools[stratum(row)].append((row, content))
    drawn: list[tuple[Row, str]] = []
    for key, count in _shares({key: len(pool) for key, pool in pools.items()}, size, seed).items():
        drawn += random.Random(f"{seed}:{key}").sample(pools[key], count)
    digest = hashlib.sha256()
    for content in sorted(content for _, content in drawn):
        digest.update(content.encode("ascii") + b"\n")
    chosen = [row for row, _ in sorted(drawn, key=lambda pair: pair[1])]
    random.Random(seed).shuffle(chosen)
    return CalibrationSet(tuple(chosen), seed, digest.hexdigest())


def stratum(row: Row) -> Stratum:
    """Modality, label ("unsafe" where any part is) and category."""
    return row.modality, row_label(row), row.category or NO_CATEGORY


def render(chosen: CalibrationSet, builder: SampleBuilder) -> Samples:
    """The rows as the runtime would send them, each with its right answer.

    A category that the builder's policy does not have is left out of the answer, which then ends
    behind the labels. Rows that give no sample are counted in `skipped`. Raises InputError when
    none does.
    """
    samples, skipped = [], Counter[str]()
    for row in chosen.rows:
        if not builder.usable(row):
            skipped["nothing to read or no label"] += 1
            continue
        if row.image is not None and builder.processor is None:
            skipped["no image processor"] += 1
            continue
        known = row.category is None or row.category in builder.encoder.policy.ids
        if not known and is_id_like(row.category or ""):
            row = replace(row, category=None)
        try:
            samples.append(builder(row))
        except ProGuardEdgeError as error:
            skipped[type(error).__name__] += 1
    if not samples:
        reasons = ", ".join(f"{n} {name}" for name, n in skipped.items()) or "there are none"
        raise InputError(f"no row of the calibration set can be used ({reasons}): draw from others")
    return Samples(samples, skipped)


def _distinct(rows: Iterable[Row]) -> list[tuple[Row, str]]:
    """Rows that share nothing with an earlier one, in the order of ids, with their content."""
    pictured = [(row, _picture(row)) for row in rows]
    ordered = sorted(((_content(*pair), *pair) for pair in pictured), key=_order)
    ids: set[str] = set()
    seen: set[tuple[str, str, str]] = set()
    kept = []
    for content, row, picture in ordered:
        texts = (normalised(row.user), normalised(row.response), picture)
        if row.id not in ids and texts not in seen:
            ids.add(row.id)
            seen.add(texts)
            kept.append((row, content))
    return kept


def _order(entry: tuple[str, Row, str]) -> tuple[str, ...]:
    content, row, _ = entry
    return content, row.source, row.licence, str(row.image), str(row.source_category)


def _content(row: Row, picture: str) -> str:
    """One line of ASCII that begins with the id and stands for all that a model is shown."""
    fields = (
        row.id,
        row.user,
        row.response,
        picture,
        row.request_label,
        row.response_label,
        row.category,
    )
    return json.dumps(fields)


def _picture(row: Row) -> str:
    """sha256 (hex) of the picture's bytes, read now; "" for none."""
    try:
        return file_digest(row.image) if row.image is not None else ""
    except OSError as error:
        what = error.strerror or error
        raise RowError(f"row {row.id}: {row.image} cannot be read ({what}): leave it out") from None


def _shares(available: Mapping[Stratum, int], size: int, seed: int) -> dict[Stratum, int]:
    """Rows to draw of each stratum, in a fixed order."""
    keys = {"\0".join(key): key for key in sorted(available)}
    labels = {key[:2] for key in available}
    ratio = {}
    for name, key in keys.items():
        modalities = len({modality for modality, _ in labels})
        within = sum(modality == key[0] for modality, _ in labels)
        categories = sum(other[:2] == key[:2] for other in available)
        ratio[name] = 1 / (modalities * within * categories)
    counts = fill({name: available[key] for name, key in keys.items()}, size, ratio)
    empty = [name for name in keys if not counts[name]]
    # Not always the last categories go without where the size is below the number of strata.
    random.Random(f"{seed}:strata").shuffle(empty)
    for name in empty:
        richest = max(keys, key=lambda other: counts[other])
        if counts[richest] < 2:
            break
        counts[richest] -= 1
        counts[name] = 1
    return {key: counts[name] for name, key in keys.items()}
