"""Build and fine-tune the embedded starter on the text rows of a data folder.

    python -m proguard_edge.train.starter --data ../shared/data --run runs/starter --tokens 900000

With `--continue-from CHECKPOINT` the run begins at an earlier starter instead of the base model.
Full fine-tuning of the upper layers (the lower ones and the embeddings keep the source's weights),
fp32 on CPU, one shared policy prefix, loss on the label decisions and on known categories; the last
`--rounded-tokens` are quantization-aware, since plain 4-bit rounding cost this model skill. Resumes
from `--run`; rows already seen are not repeated, so rows may be added between two starts. Prints a
line with loss, tokens/s and, now and then, the AUROC on held-out rows.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from proguard_edge.train.examples import IGNORE, Example, Prompting, batches, build_example
from proguard_edge.train.fake_quant import rounded
from proguard_edge.train.mixture import (
    all_rows,
    held_out_rows,
    prompting_of,
    training_examples,
    watched_rows,
)
from proguard_edge.train.prefix_lm import PrefixKV, PrefixLM
from proguard_edge.train.rows import Row
from proguard_edge.train.smollm2 import build_base

BATCH_TOKENS = 1600
PREFIX_EVERY = 6
LR = 1.5e-4
CONTINUED_LR = 1e-4
ROUNDED_LR = 8e-5
FROZEN_LAYERS = 10
FORMAT_WEIGHT = 0.3


class Trainer:
    """State of one run: model, optimizer, ids of the rows already seen, tokens consumed."""

    def __init__(
        self,
        run: Path,
        prompting: Prompting,
        prefix: list[int],
        budget: int,
        rounded_budget: int,
        rate: float = LR,
    ) -> None:
        from transformers import Qwen2_5_VLForConditionalGeneration

        self.run, self.prompting, self.rate = run, prompting, rate
        self.budget, self.rounded_budget = budget, rounded_budget
        self.model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            run / "base", dtype=torch.float32
        )
        self.lm = PrefixLM(self.model, FROZEN_LAYERS)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        self.weights = self.lm.trainable()
        # The frozen layers ship rounded as well.
        self.matrices = [*self.lm.decoder.layers.parameters()]
        for parameter in self.weights:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.prefix_ids = torch.tensor(prefix)
        self.seen: set[str] = set()
        self.tokens = self.step = 0
        self.head = self.lm.embedding.weight
        answer = prompting.encode("<answer>\nRequest:")
        self.labels = torch.tensor(
            [prompting.encode(f"<answer>\nRequest:{w}")[len(answer)] for w in ("safe", "unsafe")]
        )
        self._load()

    def _load(self) -> None:
        path = self.run / "state.pt"
        if path.exists():
            state = torch.load(path, weights_only=False)
            for parameter, value in zip(self.weights, state["weights"], strict=True):
                parameter.data.copy_(value)
            self.optimizer.load_state_dict(state["optimizer"])
            self.seen, self.tokens, self.step = state["seen"], state["tokens"], state["step"]

    def save(self) -> None:
        """Write the state beside the last one and swap, so that a kill leaves a whole file."""
        state = {
            "weights": [p.detach() for p in self.weights],
            "optimizer": self.optimizer.state_dict(),
            "seen": self.seen,
            "tokens": self.tokens,
            "step": self.step,
        }
        torch.save(state, self.run / "state.tmp")
        (self.run / "state.tmp").replace(self.run / "state.pt")

    def train(self, examples: list[Example], held_out: list[Row], watch: list[Row]) -> None:
        """One pass over the examples not seen yet, until the token budget is spent."""
        todo = [e for e in examples if e.id not in self.seen]
        plan = batches(todo, BATCH_TOKENS, seed=self.step)
        print(f"{len(todo)} rows to go, {sum(len(e.ids) for e in todo)} tokens, {len(plan)} steps")
        start, start_tokens, mean = time.time(), self.tokens, 0.0
        saved = evaluated = start
        for i, batch in enumerate(plan):
            if self.tokens >= self.budget + self.rounded_budget:
                break
            with self._weights_as_shipped():
                if i % PREFIX_EVERY == 0:
                    prefix = self.lm.prefix(self.prefix_ids)
                loss = self._backward(batch, prefix)
            self._step(batch)
            mean = loss if i == 0 else 0.95 * mean + 0.05 * loss
            now = time.time()
            if self.step % 10 == 0:
                rate = (self.tokens - start_tokens) / (now - start)
                print(
                    f"step {self.step} tokens {self.tokens} loss {mean:.3f} {rate:.0f} tokens/s "
                    f"lr {self._rate():.2e}",
                    flush=True,
                )
            if now - evaluated > 900:
                evaluated = now
                self.report(held_out, watch)
            if now - saved > 240:
                saved = now
                self.save()
        self.save()
        self.report(held_out, watch)

    def _rate(self) -> float:
        if self.tokens >= self.budget:
            done = min(1.0, (self.tokens - self.budget) / max(1, self.rounded_budget))
            return ROUNDED_LR * (0.05 + 0.475 * (1 + math.cos(math.pi * done)))
        done = self.tokens / self.budget
        warm = min(1.0, (self.step + 1) / 30)
        return self.rate * warm * (0.05 + 0.475 * (1 + math.cos(math.pi * done)))

    def _weights_as_shipped(self) -> AbstractContextManager[None]:
        """In the last phase the model computes with the rounded weights that it will ship with."""
        return rounded(self.matrices) if self.tokens >= self.budget else nullcontext()

    def _backward(self, batch: list[Example], prefix: PrefixKV) -> float:
        hidden = self.lm.hidden(_pad([e.ids for e in batch], 0), prefix)
        targets = _pad([e.targets for e in batch], IGNORE)
        is_label = torch.zeros_like(targets, dtype=torch.bool)
        for row, example in enumerate(batch):
            is_label[row, example.label_at] = True
        loss = self._loss(hidden, targets, is_label)
        loss.backward()
        return float(loss.detach())

    def _step(self, batch: list[Example]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.tokens += sum(len(e.ids) for e in batch)
        self.seen.update(e.id for e in batch)

    def _loss(
        self, hidden: torch.Tensor, targets: torch.Tensor, is_label: torch.Tensor
    ) -> torch.Tensor:
        """Labels: cross-entropy between the two label tokens alone. Other targets: full softmax."""
        logits = hidden[is_label] @ self.head[self.labels].T
        loss = F.cross_entropy(logits, (targets[is_label] == self.labels[1]).long())
        rest = (targets != IGNORE) & ~is_label
        if rest.any():
            loss = loss + FORMAT_WEIGHT * F.cross_entropy(hidden[rest] @ self.head.T, targets[rest])
        return loss

    @torch.no_grad()
    def scores(self, rows: list[Row]) -> list[float]:
        """Logit difference unsafe − safe of each row's labelled part."""
        prefix = self.lm.prefix(self.prefix_ids)
        examples = [build_example(row, self.prompting, random.Random(0)) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: len(examples[i].ids))  # type: ignore[union-attr]
        out = [0.0] * len(rows)
        for start in range(0, len(order), 32):
            part = order[start : start + 32]
            chosen = [examples[i] for i in part]
            ids = _pad([e.ids for e in chosen if e], 0)
            hidden = self.lm.hidden(ids, prefix)
            at = torch.tensor([e.label_at[-1] for e in chosen if e])
            logits = hidden[torch.arange(len(part)), at] @ self.head[self.labels].T
            for i, value in zip(part, (logits[:, 1] - logits[:, 0]).tolist(), strict=True):
                out[i] = value
        return out

    def report(self, held_out: list[Row], watch: list[Row]) -> None:
        """Print the AUROC on the held-out part of train and on each watched source."""
        from sklearn.metrics import roc_auc_score

        groups: dict[str, list[Row]] = {"held_out": held_out}
        for row in watch:
            groups.setdefault(row.source, []).append(row)
        parts = []
        for name, rows in groups.items():
            truth = [(r.response_label or r.request_label) == "unsafe" for r in rows]
            with self._weights_as_shipped():
                scores = self.scores(rows)
            recall = sum(s > 0 for s, t in zip(scores, truth, strict=True) if t) / max(
                1, sum(truth)
            )
            auroc = roc_auc_score(truth, scores) if len(set(truth)) == 2 else float("nan")
            parts.append(f"{name} AUROC {auroc:.3f} recall {recall:.3f}")
        print("eval", self.tokens, " | ".join(parts), flush=True)


def _pad(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=900_000)
    parser.add_argument("--rounded-tokens", type=int, default=0, help="quantization-aware, after")
    parser.add_argument("--continue-from", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", type=Path, help="only write the trained checkpoint here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    prepare_base(args.run / "base", args.continue_from)
    prompting, prefix = prompting_of(args.run / "base")
    rate = CONTINUED_LR if args.continue_from else LR
    trainer = Trainer(args.run, prompting, prefix, args.tokens, args.rounded_tokens, rate)
    rows = all_rows(args.data, args.seed)
    if args.export:
        export_checkpoint(trainer, rows, args.export)
        return
    examples = training_examples(rows, prompting, args.seed)
    print(f"prefix {len(prefix)} tokens; {len(examples)} rows", flush=True)
    trainer.train(examples, held_out_rows(rows, args.seed), watched_rows(args.data))


def prepare_base(base: Path, source: Path | None) -> None:
    """The checkpoint that a run begins with: a copy of `source`, or the mapped SmolLM2."""
    if (base / "config.json").exists():
        return
    if source is None:
        build_base(base)
    else:
        shutil.copytree(source, base, ignore=shutil.ignore_patterns("training.json"))
        if (source / "training.json").exists():
            shutil.copy(source / "training.json", base / "earlier.json")


def export_checkpoint(trainer: Trainer, rows: list[Row], out: Path) -> None:
    """Write the trained weights as a checkpoint folder; `training.json` says what they saw."""
    trainer.model.save_pretrained(out)
    for file in (trainer.run / "base").iterdir():
        if not (out / file.name).exists():
            shutil.copy(file, out / file.name)
    seen = {
        "tokens": trainer.tokens,
        "steps": trainer.step,
        "rows": _counts(row for row in rows if row.id in trainer.seen),
    }
    earlier = trainer.run / "base" / "earlier.json"
    if earlier.exists():
        seen["earlier"] = json.loads(earlier.read_text())
    (out / "training.json").write_text(json.dumps(seen, indent=1) + "\n")


def _counts(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Rows by source and licence, and by the labels they carry."""
    table: dict[str, dict[str, int]] = {}
    for row in rows:
        entry = table.setdefault(f"{row.source} ({row.licence})", {})
        for part in ("request", "response"):
            if (label := getattr(row, f"{part}_label")) is not None:
                entry[f"{part} {label}"] = entry.get(f"{part} {label}", 0) + 1
    return dict(sorted(table.items()))


if __name__ == "__main__":
    main()
