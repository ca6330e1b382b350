"""Which rows to train on: without duplicates, without evaluation requests, modalities in balance.

Near-duplicates are found by MinHash over word 8-grams (Broder 1997), in buckets of equal bands, and
confirmed by the Jaccard index itself. Nothing depends on Python's hash seed.
"""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from proguard_edge.template import Modality
from proguard_edge.train.rows import Row

NGRAM = 8
THRESHOLD = 0.8
EQUAL_SHARES: Mapping[Modality, float] = {"text": 1, "text-image": 1, "image": 1}

# 16 bands of 4: a pair at Jaccard 0.8 shares a band with probability 1 - (1 - 0.8^4)^16 = 0.9998.
_BANDS, _PER_BAND = 16, 4
# Rows made from one form fill a bucket with rows that are alike but no duplicates; looking at all
# of them would be quadratic.
_LOOKED_AT = 32

Shingles = NDArray[np.uint64]
K = TypeVar("K", bound=str)


@dataclass(frozen=True)
class Deduplicated:
    """Rows kept, in their order, and how many were left out.

    exact: same text and picture; conflicting: those among them labelled otherwise than the row that
    was kept; near: almost the same text, the same picture and the same labels.
    """

    rows: list[Row]
    exact: int
    near: int
    conflicting: int


def normalised(text: str | None) -> str:
    """Lower case words of any script, one space apart; a text without words stays as it is."""
    if text is None:
        return ""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(words) or text.strip()


def deduplicate(rows: Iterable[Row]) -> Deduplicated:
    """Keep the first of equal rows, and of near-equal rows with equal labels.

    Near-equal rows with different labels are both kept: they teach what makes the difference.
    """
    kept: dict[tuple[str, str, str], Row] = {}
    near_index: dict[tuple[str, str | None, str | None], _NearIndex] = defaultdict(_NearIndex)
    exact = near = conflicting = 0
    for row in rows:
        picture = image_digest(row.image)
        key = (normalised(row.user), normalised(row.response), picture)
        if (first := kept.get(key)) is not None:
            exact += 1
            conflicting += _labels(first) != _labels(row)
            continue
        words = [*key[0].split(), *(["\n", *key[1].split()] if key[1] else [])]
        if len(words) >= NGRAM and near_index[picture, *_labels(row)].holds_or_add(shingles(words)):
            near += 1
            continue
        kept[key] = row
    return Deduplicated(list(kept.values()), exact, near, conflicting)


def balance(
    rows: Iterable[Row],
    total: int,
    seed: int,
    ratio: Mapping[Modality, float] = EQUAL_SHARES,
) -> list[Row]:
    """`total` different rows, as near to `ratio` of modalities as there are rows, shuffled.

    What a modality cannot fill is shared among the others. Fewer than `total` come out only when
    all rows of the modalities in `ratio` are used. The draw depends on ids, not on the input order.
    Raises ValueError for a negative total or ratio.
    """
    if total < 0 or any(share < 0 for share in ratio.values()):
        raise ValueError("total and ratio cannot be negative")
    pools: dict[Modality, list[Row]] = {modality: [] for modality in sorted(ratio)}
    for row in rows:
        if row.modality in pools:
            pools[row.modality].append(row)
    counts = fill({m: len(pool) for m, pool in pools.items()}, total, ratio)
    drawn: list[Row] = []
    for modality, pool in pools.items():
        pool.sort(key=lambda row: row.id)
        drawn += random.Random(f"{seed}:{modality}").sample(pool, counts[modality])
    random.Random(seed).shuffle(drawn)
    return drawn


def without_overlap(rows: Iterable[Row], forbidden: Iterable[Row]) -> list[Row]:
    """Rows whose request is none of `forbidden`, so that an evaluation stays one.

    Two pictures are compared by their bytes. Texts overlap when they are equal once normalised, or
    when more than half of the row's word 8-grams stand in forbidden requests; texts that both come
    with a picture are not compared ("What is this?" is another request for each picture).
    """
    texts: dict[bool, set[str]] = {True: set(), False: set()}
    grams: dict[bool, set[int]] = {True: set(), False: set()}
    pictures = set()
    for row in forbidden:
        pictured = row.image is not None
        pictures.add(image_digest(row.image))
        texts[pictured].add(normalised(row.user))
        grams[pictured].update(shingles(normalised(row.user).split()).tolist())
    pictures.discard("")
    kept = []
    for row in rows:
        compared = (False,) if row.image is not None else (True, False)
        text = normalised(row.user)
        own = shingles(text.split()).tolist()
        seen = sum(any(gram in grams[p] for p in compared) for gram in own)
        spoken = text and any(text in texts[p] for p in compared)
        if image_digest(row.image) not in pictures and not spoken and 2 * seen <= len(own):
            kept.append(row)
    return kept


@lru_cache(maxsize=1 << 16)
def image_digest(path: Path | None) -> str:
    """sha256 (hex) of the picture's bytes, "" for none. Raises OSError."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else ""


def shingles(words: list[str]) -> Shingles:
    """uint64 [distinct 8-grams], sorted; empty for fewer than 8 words."""
    if len(words) < NGRAM:
        return np.empty(0, np.uint64)
    hashes = np.array([_word_hash(word) for word in words], np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(hashes, NGRAM)
    return np.unique((windows * _POWERS).sum(axis=1, dtype=np.uint64))


def jaccard(a: Shingles, b: Shingles) -> float:
    """Size of the intersection over size of the union, 0 for two empty sets."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both) if both else 0.0


class _NearIndex:
    """The shingles of rows seen so far, found again by any band of their MinHash signature."""

    def __init__(self) -> None:
        self._sets: list[Shingles] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)

    def holds_or_add(self, own: Shingles) -> bool:
        """Whether a set at `THRESHOLD` or above is there; adds `own` when there is none."""
        signature = ((own[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)).min(axis=0)
        bands = [
            (i, signature[i * _PER_BAND : (i + 1) * _PER_BAND].tobytes()) for i in range(_BANDS)
        ]
        alike = {index for band in bands for index in self._buckets[band][-_LOOKED_AT:]}
        if any(jaccard(own, self._sets[index]) >= THRESHOLD for index in sorted(alike)):
            return True
        for band in bands:
            self._buckets[band].append(len(self._sets))
        self._sets.append(own)
        return False


def _constants(label: str, count: int) -> Shingles:
    """Fixed odd 64-bit numbers."""
    digests = [hashlib.sha256(f"{label}:{i}".encode()).digest()[:8] for i in range(count)]
    return np.array([int.from_bytes(d, "little") | 1 for d in digests], np.uint64)


_FACTORS = _constants("factor", _BANDS * _PER_BAND)
_OFFSETS = _constants("offset", _BANDS * _PER_BAND)
_POWERS = _constants("position", NGRAM)


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    data = word.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _labels(row: Row) -> tuple[str | None, str | None]:
    return row.request_label, row.response_label


def fill(available: Mapping[K, int], total: int, ratio: Mapping[K, float]) -> dict[K, int]:
    """How many of each to draw: whole numbers, by largest remainder, never above `available`.

    What one cannot fill is shared among the others.
    """
    counts = dict.fromkeys(available, 0)
    open_ = {m for m in available if available[m] and ratio[m]}
    left = min(total, sum(available[m] for m in open_))
    while left and open_:
        weight = sum(ratio[m] for m in open_)
        wish = {m: left * ratio[m] / weight for m in sorted(open_)}
        short = {m for m in open_ if counts[m] + wish[m] >= available[m]}
        if not short:
            floors = {m: int(wish[m]) for m in wish}
            order = sorted(wish, key=lambda m: (floors[m] - wish[m], m))
            for m in order[: left - sum(floors.values())]:
                floors[m] += 1
            return {m: counts[m] + floors.get(m, 0) for m in counts}
        for m in short:
            left -= available[m] - counts[m]
            counts[m] = available[m]
        open_ -= short
    return counts
