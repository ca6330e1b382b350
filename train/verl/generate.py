"""Sampling answers from a Qwen2.5-VL on a CPU, many at once.

The n answers of a prompt share one prefill: the prompt runs alone, once, and its keys and values
are repeated. Then all answers of all prompts of a batch are decoded together, shorter prompts
padded on the left. Positions are passed explicitly, so padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

MAX_ROWS = 64
PLACEHOLDERS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


@dataclass(frozen=True)
class Sampling:
    """How to sample. max_tokens: of the answer; temperature 0 is greedy; top_k 0 is no limit."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    @classmethod
    def from_verl(cls, params: dict[str, Any], room: int) -> Sampling:
        """verl's sampling parameters; `room` is the number of tokens where they name none."""
        most = params.get("max_tokens") or params.get("max_new_tokens") or room
        return cls(
            max(1, min(int(most), room)),
            float(params.get("temperature", 1.0)),
            float(params.get("top_p", 1.0)),
            max(0, int(params.get("top_k", 0))),
        )


@dataclass(frozen=True)
class Job:
    """One answer to sample: prompt ids, image tokens expanded, and the RGB pictures they show."""

    ids: tuple[int, ...]
    images: tuple[Any, ...] = ()

    def key(self) -> tuple[Any, ...]:
        """Equal for jobs that can share a prefill."""
        return self.ids, tuple((image.size, image.tobytes()) for image in self.images)


@dataclass(frozen=True)
class Sampled:
    """Ids of an answer with its end token, and the log-probability of each at the temperature."""

    ids: list[int]
    log_probs: list[float]


class Generator:
    """Samples from a model. `suppressed` ids are never sampled, `end_ids` end an answer."""

    def __init__(
        self, model: Any, image_processor: Any, suppressed: Sequence[int], end_ids: Sequence[int]
    ) -> None:
        self.model = model
        self._image_processor = image_processor
        self._suppressed, self.end_ids = list(suppressed), list(end_ids)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Generator:
        """Of a checkpoint, in fp32. Raises OSError where there is none."""
        import torch
        from transformers import (
            AutoImageProcessor,
            AutoTokenizer,
            Qwen2_5_VLForConditionalGeneration,
        )

        model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        )
        processors: Any = AutoImageProcessor
        # An untrained model would sample them, and verl would look for the pictures they stand for.
        suppressed = [getattr(model.config, name, None) for name in PLACEHOLDERS]
        ends = model.generation_config.eos_token_id
        if ends is None:
            ends = AutoTokenizer.from_pretrained(folder).eos_token_id
        return cls(
            model.eval(),
            processors.from_pretrained(folder, backend="pil"),
            [int(i) for i in suppressed if i is not None],
            [ends] if isinstance(ends, int) else list(ends),
        )

    def __call__(self, jobs: Sequence[Job], sampling: Sampling) -> list[Sampled]:
        """An answer for each job, in their order."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, job in enumerate(jobs):
            groups.setdefault(job.key(), []).append(index)
        # Prompts of like length beside each other: less padding.
        ordered = sorted(groups.values(), key=lambda members: len(jobs[members[0]].ids))
        found: dict[int, Sampled] = {}
        for batch in _batches(ordered):
            members = [index for group in batch for index in group]
            sampled = self._answer([(jobs[g[0]], len(g)) for g in batch], sampling)
            found.update(zip(members, sampled, strict=True))
        return [found[index] for index in range(len(jobs))]

    def _answer(self, prompts: list[tuple[Job, int]], sampling: Sampling) -> list[Sampled]:
        import torch

        with torch.inference_mode():
            filled = [self._prefill(job) for job, _ in prompts]
            counts = [count for _, count in prompts]
            cache, mask = _merged([layers for layers, _, _ in filled], counts)
            repeats = torch.tensor(counts)
            logits = torch.cat([last for _, last, _ in filled]).repeat_interleave(repeats, 0)
            places = torch.tensor([place for _, _, place in filled]).repeat_interleave(repeats)
            return self._decode(cache, mask, logits, places, sampling)

    def _prefill(self, job: Job) -> tuple[list[tuple[Any, Any]], Any, int]:
        """Keys and values [1, heads, P, dim] a layer, logits [1, vocabulary], next position."""
        import torch

        ids = torch.tensor([job.ids])
        inputs: dict[str, Any] = {"input_ids": ids}
        positions = torch.arange(len(job.ids)).expand(3, 1, -1)
        if job.images:
            inputs |= self._image_processor(images=list(job.images), return_tensors="pt")
            kinds = (ids == self.model.config.image_token_id).long()
            positions, _ = self.model.model.get_rope_index(
                ids,
                mm_token_type_ids=kinds,
                image_grid_thw=inputs["image_grid_thw"],
                attention_mask=torch.ones_like(ids),
            )
        out = self.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
        layers = [(layer.keys, layer.values) for layer in out.past_key_values.layers]
        return layers, out.logits[:, -1].float(), int(positions.max()) + 1

    def _decode(
        self, cache: Any, mask: Any, logits: Any, places: Any, sampling: Sampling
    ) -> list[Sampled]:
        import torch

        rows = len(places)
        ids: list[list[int]] = [[] for _ in range(rows)]
        log_probs: list[list[float]] = [[] for _ in range(rows)]
        running = torch.ones(rows, dtype=torch.bool)
        ends = torch.tensor(self.end_ids)
        for step in range(sampling.max_tokens):
            chosen, chances = self._choose(logits, sampling)
            for row in running.nonzero().flatten().tolist():
                ids[row].append(int(chosen[row]))
                log_probs[row].append(float(chances[row]))
            running &= ~torch.isin(chosen, ends)
            if not running.any() or step + 1 == sampling.max_tokens:
                break
            mask = torch.cat([mask, mask.new_ones(rows, 1)], 1)
            out = self.model(
                input_ids=chosen[:, None],
                attention_mask=mask,
                position_ids=(places + step).expand(3, -1)[..., None],
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logits = out.logits[:, -1].float()
        return [Sampled(*row) for row in zip(ids, log_probs, strict=True)]

    def _choose(self, logits: Any, sampling: Sampling) -> tuple[Any, Any]:
        """Chosen ids [rows] and their log-probabilities [rows] before suppression and cuts."""
        import torch

        greedy = sampling.temperature == 0
        logits = logits if greedy else logits / sampling.temperature
        chances = torch.log_softmax(logits, -1)
        allowed = logits.clone()
        allowed[:, self._suppressed] = -torch.inf
        if greedy:
            chosen = allowed.argmax(-1)
        else:
            weights = torch.softmax(_cut(allowed, sampling), -1)
            chosen = torch.multinomial(weights, 1)[:, 0]
        return chosen, chances.gather(1, chosen[:, None])[:, 0]


def _cut(logits: Any, sampling: Sampling) -> Any:
    """Logits [rows, vocabulary] with -inf for all but the top k, and the nucleus of top p."""
    import torch

    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, -1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, order = logits.sort(-1, descending=True)
        chances = ordered.softmax(-1)
        outside = chances.cumsum(-1) - chances >= sampling.top_p
        logits = logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)
    return logits


def _merged(prompts: list[list[tuple[Any, Any]]], counts: list[int]) -> tuple[Any, Any]:
    """One cache for prompts repeated `counts` times, and its mask [rows, longest]."""
    import torch
    from torch.nn.functional import pad
    from transformers import DynamicCache

    lengths = [layers[0][0].shape[2] for layers in prompts]
    longest = max(lengths)
    repeats = torch.tensor(counts)
    cache = DynamicCache()
    for index in range(len(prompts[0])):
        layer = [
            [pad(tensor, (0, 0, longest - tensor.shape[2], 0)) for tensor in layers[index]]
            for layers in prompts
        ]
        keys, values = (
            torch.cat(parts).repeat_interleave(repeats, 0) for parts in zip(*layer, strict=True)
        )
        cache.update(keys, values, index)
    places = torch.arange(longest)
    mask = torch.stack([(places >= longest - length).long() for length in lengths])
    return cache, mask.repeat_interleave(repeats, 0)


def _batches(groups: Sequence[list[int]]) -> list[list[list[int]]]:
    """Groups in batches of at most `MAX_ROWS` answers; a larger group is cut into several."""
    cut = [g[i : i + MAX_ROWS] for g in groups for i in range(0, len(g), MAX_ROWS)]
    batches: list[list[list[int]]] = []
    rows = MAX_ROWS
    for group in cut:
        if rows + len(group) > MAX_ROWS:
            batches.append([])
            rows = 0
        batches[-1].append(group)
        rows += len(group)
    return batches
