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
import random
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from proguard_edge.train.examples import Example, batches, build_example
from proguard_edge.train.mixture import (
    all_rows,
    held_out_rows,
    prompting_of,
    training_examples,
    watched_rows,
)
from proguard_edge.train.prefix_trainer import BATCH_TOKENS, PrefixTrainer, Schedule, pad
from proguard_edge.train.rows import Row
from proguard_edge.train.smollm2 import build_base

CONTINUED_LR = 1e-4
FROZEN_LAYERS = 10


class Trainer(PrefixTrainer[Example]):
    """A run of the starter: one pass over the rows, watched on others."""

    def train(self, examples: list[Example], held_out: list[Row], watch: list[Row]) -> None:
        """One pass over the examples not seen yet, until the token budget is spent."""
        todo = [e for e in examples if e.id not in self.seen]
        plan = batches(todo, BATCH_TOKENS, seed=self.step)
        print(f"{len(todo)} rows to go, {sum(len(e.ids) for e in todo)} tokens, {len(plan)} steps")
        start, start_tokens, mean = time.time(), self.tokens, None
        evaluated = start
        for loss in self.run(plan):
            mean = loss if mean is None else 0.95 * mean + 0.05 * loss
            now = time.time()
            if self.step % 10 == 0:
                speed = (self.tokens - start_tokens) / (now - start)
                print(
                    f"step {self.step} tokens {self.tokens} loss {mean:.3f} {speed:.0f} tokens/s "
                    f"lr {self.rate():.2e}",
                    flush=True,
                )
            if now - evaluated > 900:
                evaluated = now
                self.report(held_out, watch)
        self.report(held_out, watch)

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
            ids = pad([e.ids for e in chosen if e], 0)
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
            with self.weights_as_shipped():
                scores = self.scores(rows)
            recall = sum(s > 0 for s, t in zip(scores, truth, strict=True) if t) / max(
                1, sum(truth)
            )
            auroc = roc_auc_score(truth, scores) if len(set(truth)) == 2 else float("nan")
            parts.append(f"{name} AUROC {auroc:.3f} recall {recall:.3f}")
        print("eval", self.tokens, " | ".join(parts), flush=True)


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
    schedule = Schedule(args.tokens, args.rounded_tokens, frozen_layers=FROZEN_LAYERS)
    if args.continue_from:
        schedule = replace(schedule, rate=CONTINUED_LR)
    trainer = Trainer(args.run / "base", args.run / "state.pt", prompting, prefix, schedule)
    rows = all_rows(args.data, args.seed)
    if args.export:
        export_checkpoint(trainer, rows, args.run / "base", args.export)
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


def export_checkpoint(trainer: Trainer, rows: list[Row], base: Path, out: Path) -> None:
    """Write the trained weights as a checkpoint folder; `training.json` says what they saw."""
    trainer.model.save_pretrained(out)
    for file in base.iterdir():
        if not (out / file.name).exists():
            shutil.copy(file, out / file.name)
    seen = {
        "tokens": trainer.tokens,
        "steps": trainer.step,
        "rows": _counts(row for row in rows if row.id in trainer.seen),
    }
    earlier = base / "earlier.json"
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
