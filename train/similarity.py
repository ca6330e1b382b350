"""How alike two names of a risk are: cosines of sentence embeddings from a local folder.

The ProGuard reward (arXiv 2512.23573) compares a free name with the true category's name and its
synonyms by BGE-M3. Any folder in the layout of sentence-transformers will do; nothing is ever
downloaded.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]

BATCH = 64


class Similarity(Protocol):
    """Cosines in [-1, 1] of a name with each reference, in their order."""

    def __call__(self, name: str, references: Sequence[str], /) -> list[float]: ...


class SentenceSimilarity:
    """Similarity by the embedding model of a folder; safe to call from several threads.

    References (names and synonyms of a policy) are few: each is embedded once. Of the names that
    a model makes up, the vectors of the last `cached_names` are kept.

    Raises FileNotFoundError when there is no such folder, ValueError when its pooling is unknown.
    """

    def __init__(self, folder: Path, device: str = "cpu", cached_names: int = 4096) -> None:
        folder = Path(folder)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{folder}: no folder of an embedding model (config.json)")
        self._embed = _loaded(folder, device)
        self._references: dict[str, Vectors] = {}
        self._names: OrderedDict[str, Vectors] = OrderedDict()
        self._cached_names = cached_names
        self._lock = threading.Lock()

    def __call__(self, name: str, references: Sequence[str], /) -> list[float]:
        """Cosines of one name, see `many`."""
        return self.many([name], [references])[0]

    def many(self, names: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each name its cosines with its own references; all new texts in one go.

        Raises ValueError when there are not as many lists of references as names.
        """
        if len(names) != len(references):
            raise ValueError(f"{len(names)} names, {len(references)} lists of references")
        with self._lock:
            vectors = self._learn(names, [text for own in references for text in own])
            return [
                [_cosine(vectors[name], self._references[text]) for text in own]
                for name, own in zip(names, references, strict=True)
            ]

    def _learn(self, names: Sequence[str], references: Sequence[str]) -> dict[str, Vectors]:
        """Embeds what is new, and returns the vectors of these names."""
        new_names = [n for n in dict.fromkeys(names) if n not in self._names]
        new_references = [t for t in dict.fromkeys(references) if t not in self._references]
        texts = list(dict.fromkeys([*new_names, *new_references]))
        found = dict(zip(texts, self._embed(texts), strict=True)) if texts else {}
        self._references.update((text, found[text]) for text in new_references)
        self._names.update((name, found[name]) for name in new_names)
        vectors = {}
        for name in names:
            self._names.move_to_end(name)
            vectors[name] = self._names[name]
        while len(self._names) > self._cached_names:
            self._names.popitem(last=False)
        return vectors


def _cosine(a: Vectors, b: Vectors) -> float:
    """Of unit vectors; rounding may not take it out of [-1, 1]."""
    return float(np.clip(a @ b, -1.0, 1.0))


def _loaded(folder: Path, device: str) -> Embed:
    """By sentence-transformers where it is installed, else by transformers alone."""
    if importlib.util.find_spec("sentence_transformers") is not None:
        return _sentence_transformer(folder, device)
    return _plain_transformer(folder, device)


def _sentence_transformer(folder: Path, device: str) -> Embed:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device=device, local_files_only=True)

    def embed(texts: list[str]) -> Vectors:
        vectors = model.encode(
            texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)

    return embed


def _plain_transformer(folder: Path, device: str) -> Embed:
    import torch
    from transformers import AutoModel, AutoTokenizer

    by_first = _pools_by_first(folder)
    longest = _json(folder / "sentence_bert_config.json").get("max_seq_length") or 512
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval().to(device)

    def embed(texts: list[str]) -> Vectors:
        parts = []
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(
                texts[start : start + BATCH],
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(device)
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None]
            pooled = hidden[:, 0] if by_first else (hidden * mask).sum(1) / mask.sum(1)
            parts.append(torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy())
        return np.concatenate(parts)

    return embed


def _pools_by_first(folder: Path) -> bool:
    """Whether a sentence's vector is that of its first token (BGE-M3) or the mean (MiniLM)."""
    pooling = _json(folder / "1_Pooling" / "config.json")
    wanted = {
        name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True
    }
    if wanted == {"pooling_mode_cls_token"}:
        return True
    if not wanted or wanted == {"pooling_mode_mean_tokens"}:
        return False
    raise ValueError(
        f"{folder}: pooling by {', '.join(sorted(wanted))} needs sentence-transformers"
    )


def _json(path: Path) -> dict[str, Any]:
    """An optional configuration file; empty where it is absent."""
    raw = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return raw if isinstance(raw, dict) else {}
