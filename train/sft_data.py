"""Labelled rows, with their pictures, as the token sequences of supervised fine-tuning.

A sample is the prompt that the runtime sends, then the answer. Every answer token is a target, so
that the model also learns the format, except what nobody labelled.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from proguard_edge.answer import answer_text
from proguard_edge.engine.positions import rope_positions
from proguard_edge.image import ImageProcessor, Patches, load_image
from proguard_edge.prompt import PromptEncoder
from proguard_edge.train.augment import Hiding, augment
from proguard_edge.train.examples import IGNORE
from proguard_edge.train.rows import Row


@dataclass(frozen=True)
class Sample:
    """ids and targets of the same length S; `targets[i]` is `ids[i]` or IGNORE (labels not
    shifted, as transformers wants them); images in the order of their places in `ids`.

    answer_at: where in `ids` the answer begins.
    """

    ids: list[int]
    targets: list[int]
    images: tuple[Patches, ...]
    answer_at: int


@dataclass(frozen=True)
class SampleBuilder:
    """Makes samples of rows. `processor` None: rows with an image are refused.

    max_tokens: of user text and of response, each; longer ones are trained on their first window.
    hiding: with it every row gets a shuffled and partly hidden policy, see `train.augment`.
    always_response: the model writes a Response line for every conversation (`response_line`).
    """

    encoder: PromptEncoder
    processor: ImageProcessor | None
    end_id: int
    seed: int = 0
    max_tokens: int = 512
    hiding: Hiding | None = None
    always_response: bool = False

    def usable(self, row: Row) -> bool:
        """Whether a row has something to read and a label to teach."""
        seen = bool(row.user and row.user.strip()) or row.image is not None
        return seen and (row.request_label is not None or row.response_label is not None)

    def __call__(self, row: Row) -> Sample:
        """The sample of a usable row. Raises ImageError, TextError, LimitError."""
        encoder = self.encoder
        if self.hiding is not None:
            task = augment(row, encoder.policy, self.seed, self.hiding)
            encoder = encoder.with_policy(task.policy)
            row = replace(row, category=task.target.category or task.target.ood_name)
        images = () if row.image is None else (self._patches(row),)
        response = row.response if row.response_label is not None else None
        prompt = encoder.content(
            self._first(row.user), self._first(response), [image.n_tokens for image in images]
        )
        answer, targets = self._answer(row, response is not None)
        head = [*prompt.prefix_ids.tolist(), *prompt.content_ids.tolist()]
        return Sample([*head, *answer], [IGNORE] * len(head) + targets, images, len(head))

    def _patches(self, row: Row) -> Patches:
        if self.processor is None or row.image is None:
            raise ValueError(f"{row.id}: this checkpoint has no image processor settings")
        return self.processor(load_image(row.image)[0].image)

    def _first(self, text: str | None) -> str | None:
        if text is None or not text.strip():
            return None
        return self.encoder.windows(text, self.max_tokens, 0)[0]

    def _answer(self, row: Row, with_response: bool) -> tuple[list[int], list[int]]:
        """Ids and targets. An unlabelled request gets a random label that is no target; where the
        category of an unsafe row is unknown the answer ends behind the labels."""
        encode = self.encoder.encode_static
        rng = random.Random(f"{self.seed}:{row.id}")
        request = row.request_label or rng.choice(("safe", "unsafe"))
        response = row.response_label if with_response else None
        if response is None and self.always_response and (row.user is not None or not row.image):
            response = "safe"
        unsafe = "unsafe" in (request, response)
        answer = answer_text(request, response, row.category if unsafe else None)
        if row.request_label is not None and not (unsafe and row.category is None):
            ids = [*encode(answer), self.end_id]
            return ids, list(ids)
        answer = answer[: answer.index("\nCategory:")]
        ids = targets = encode(answer)
        if row.request_label is None:
            other = answer.replace(f":{request}", ":safe" if request == "unsafe" else ":unsafe", 1)
            targets = _agreeing(ids, encode(other))
        return ids, targets


def _agreeing(ids: list[int], others: list[int]) -> list[int]:
    """`ids` with IGNORE between the beginning and the end that they share with `others`."""
    limit = min(len(ids), len(others))
    head = next((i for i in range(limit) if ids[i] != others[i]), limit)
    tail = next((i for i in range(limit - head) if ids[-1 - i] != others[-1 - i]), limit - head)
    return [*ids[:head], *[IGNORE] * (len(ids) - head - tail), *ids[len(ids) - tail :]]


def collate(samples: Sequence[Sample], image_token_id: int, merge_size: int) -> dict[str, Any]:
    """A batch for Qwen2.5-VL: int64 [B, S] right-padded ids, mask and labels, [3, B, S] positions,
    and the patches of all images one behind the other."""
    import torch

    width = max(len(sample.ids) for sample in samples)
    shape = (len(samples), width)
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, IGNORE, np.int64)
    positions = np.zeros((3, *shape), np.int64)
    images: list[Patches] = []
    for row, sample in enumerate(samples):
        n = len(sample.ids)
        ids[row, :n], mask[row, :n], labels[row, :n] = sample.ids, 1, sample.targets
        grids = [image.grid for image in sample.images]
        positions[:, row, :n], _ = rope_positions(ids[row, :n], image_token_id, grids, merge_size)
        images += sample.images
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels, "position_ids": positions}
    batch: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if images:
        batch["pixel_values"] = torch.from_numpy(np.concatenate([i.pixels for i in images]))
        batch["image_grid_thw"] = torch.tensor([i.grid for i in images])
    return batch
