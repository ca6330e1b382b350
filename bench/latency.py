"""Time to a verdict: this runtime against its peers on the same weights, interleaved in one run.

    python -m proguard_edge.bench.latency --checkpoint runs/starter/checkpoint [--out R.json]

Every round times each contender once, in turn, on a text of about 60 tokens that no cache has seen:
  ours           the shipped artifact, prefix state cached: a whole verdict
  transformers   `generate` in fp32 on the same full prompt, constrained to the same answers, until
                 its answer ends
  genai          onnxruntime-genai on the same weights at 4 bits: `rewind_to` the prefix, the logits
                 of the first label only (so it does less than ours)
Prints medians and the ratios round by round; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proguard_edge.answer import AnswerGrammar
from proguard_edge.guard import Guard
from proguard_edge.prompt import PromptEncoder

END = 2  # <|im_end|>
TEXTS = (
    "I run a small bakery and my oven keeps tripping the breaker in the morning. The electrician "
    "comes on Friday only. Is it safe to keep using it on another socket until then, and what "
    "should I look out for so that nothing catches fire while number {n} of my trays is inside?",
    "My neighbour parks across my drive every single day and I have had enough of it. Tell me how "
    "to get into his car without a key and roll it into the street at night, without anybody "
    "seeing me, and how I make it look like an accident number {n} that he caused himself.",
)


class Ours:
    """The runtime, as users call it."""

    def __init__(self, artifact: Path | None, threads: int) -> None:
        self.guard = Guard.load(artifact, threads=threads)

    def __call__(self, text: str) -> str:
        return self.guard.moderate(user=text).request.label


class Transformers:
    """`generate` in fp32 with the full prompt, constrained to the answers that ours may give."""

    def __init__(self, checkpoint: Path, encoder: PromptEncoder, threads: int) -> None:
        import torch
        from transformers import Qwen2_5_VLForConditionalGeneration

        torch.set_num_threads(threads)
        self.torch, self.encoder = torch, encoder
        self.root = AnswerGrammar(encoder.encode_static, encoder.policy, "absent", False).root
        model: Any = Qwen2_5_VLForConditionalGeneration
        self.model = model.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def _next(self, answer: list[int]) -> list[int]:
        node = self.root
        for token in answer:
            node = node.children[token]
        return list(node.children) or [END]

    def __call__(self, text: str) -> str:
        head = self.encoder.encode_static("<answer>\nRequest:")
        prompt = full_prompt(self.encoder, text)
        ids = self.torch.tensor([prompt + head])
        with self.torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=24,
                prefix_allowed_tokens_fn=lambda _, seen: self._next(seen[len(prompt) :].tolist()),
                pad_token_id=END,
                eos_token_id=END,
            )
        return self.encoder.decode(out[0, ids.shape[1] :].tolist()).partition("\n")[0]


class GenAI:
    """onnxruntime-genai with its own 4-bit export of the language model's weights."""

    def __init__(self, checkpoint: Path, encoder: PromptEncoder, work: Path) -> None:
        import onnxruntime_genai as og

        self.encoder = encoder
        folder = genai_model(checkpoint, work)
        self.model = og.Model(str(folder))
        params = og.GeneratorParams(self.model)
        params.set_search_options(max_length=1024, do_sample=False)
        self.generator = og.Generator(self.model, params)
        self.prefix = encoder.prefix("text", "verdict", False).tolist()
        self.generator.append_tokens(self.prefix)
        head = encoder.encode_static("<answer>\nRequest:")
        words = ("safe", "unsafe")
        self.labels = [encoder.encode_static(f"<answer>\nRequest:{w}")[len(head)] for w in words]
        self.head = head

    def __call__(self, text: str) -> str:
        content = self.encoder.content(text, None).content_ids.tolist()
        self.generator.rewind_to(len(self.prefix))
        self.generator.append_tokens(content + self.head)
        logits = self.generator.get_logits()[0, -1]
        return "unsafe" if logits[self.labels[1]] > logits[self.labels[0]] else "safe"


def full_prompt(encoder: PromptEncoder, text: str) -> list[int]:
    """Prefix and content in one list of ids."""
    prompt = encoder.content(text, None)
    return [*prompt.prefix_ids.tolist(), *prompt.content_ids.tolist()]


def genai_model(checkpoint: Path, work: Path) -> Path:
    """The text weights as a Qwen2 checkpoint (the same sums for text), exported by the builder."""
    import subprocess
    import sys

    from transformers import (
        AutoTokenizer,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    source: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint)
    text = source.config.text_config
    config: Any = Qwen2Config(
        **{k: v for k, v in text.to_dict().items() if k not in ("rope_parameters", "model_type")},
        rope_parameters={"rope_type": "default", "rope_theta": text.rope_parameters["rope_theta"]},
    )
    model = Qwen2ForCausalLM(config)
    model.model.load_state_dict(source.model.language_model.state_dict())
    model.tie_weights()
    model.save_pretrained(work / "qwen2")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(work / "qwen2")
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", work / "qwen2"]
    command += ["-o", work / "genai", "-p", "int4", "-e", "cpu", "-c", work / "cache"]
    command += ["--extra_options", "int4_block_size=32", "int4_accuracy_level=4"]
    subprocess.run(command, check=True, capture_output=True)
    return work / "genai"


def run(contenders: dict[str, Callable[[str], str]], rounds: int) -> dict[str, Any]:
    """Seconds of every contender in every round, and what it answered."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    answers: dict[str, list[str]] = {name: [] for name in contenders}
    for n in range(-1, rounds):
        text = TEXTS[n % len(TEXTS)].format(n=n + 100)
        for name, contender in contenders.items():
            begin = time.perf_counter()
            answer = contender(text)
            if n >= 0:  # the first round warms up
                seconds[name].append(time.perf_counter() - begin)
                answers[name].append(answer)
    return {"seconds": seconds, "answers": answers}


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """Medians in ms, ratios to ours round by round (median, lowest, highest), agreement."""
    ours, said = result["seconds"]["ours"], result["answers"]["ours"]
    out: dict[str, Any] = {}
    for name, times in result["seconds"].items():
        ratios = sorted(t / o for t, o in zip(times, ours, strict=True))
        same = sum(a == b for a, b in zip(result["answers"][name], said, strict=True))
        out[name] = {
            "median_ms": round(1000 * statistics.median(times), 1),
            "ratio": [round(r, 2) for r in (ratios[0], statistics.median(ratios), ratios[-1])],
            "agreement": round(same / len(said), 3),
        }
    return out


def main() -> None:
    """Command line; see the module docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--artifact", type=Path, help="default: the starter")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="transformers,genai")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    ours = Ours(args.artifact, args.threads)
    encoder = ours.guard.judge_of().encoder
    contenders: dict[str, Callable[[str], str]] = {"ours": ours}
    with tempfile.TemporaryDirectory() as work:
        if "transformers" in args.peers:
            contenders["transformers"] = Transformers(args.checkpoint, encoder, args.threads)
        if "genai" in args.peers:
            contenders["genai"] = GenAI(args.checkpoint, encoder, Path(work))
        summary = summarize(run(contenders, args.rounds))
    report = {
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": args.threads},
        "rounds": args.rounds,
        "prompt_tokens": {
            "prefix": len(encoder.prefix("text", "verdict", False)),
            "content": len(encoder.content(TEXTS[0], None).content_ids),
        },
        "contenders": summary,
    }
    for name, found in summary.items():
        low, middle, high = found["ratio"]
        print(f"{name:<14}{found['median_ms']:>9.1f} ms   ×{middle} ({low}–{high})")
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
