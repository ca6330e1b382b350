"""Answers sampled together are those that transformers gives one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from proguard_edge.train.verl.generate import Generator, Job, Sampling, _batches, _cut

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def parts(tiny: Path) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, Qwen2_5_VLForConditionalGeneration

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny, dtype=torch.float32).eval()
    return model, AutoImageProcessor.from_pretrained(tiny, backend="pil")


def jobs(model: Any) -> list[Job]:
    pad = model.config.image_token_id
    picture = Image.linear_gradient("L").resize((112, 56)).convert("RGB")
    return [
        Job(tuple(range(40, 60))),
        Job((50, 51, 52, *[pad] * 8, 53, 54), (picture,)),
        Job(tuple(range(40, 60))),
        Job(tuple(range(70, 77))),
    ]


def test_greedy_answers_of_a_mixed_batch_are_those_of_generate(parts: tuple[Any, Any]) -> None:
    model, processor = parts
    found = Generator(model, processor, [], [0])(jobs(model), Sampling(12, temperature=0))
    for job, answer in zip(jobs(model), found, strict=True):
        ids = torch.tensor([job.ids])
        inputs: dict[str, Any] = {}
        if job.images:
            inputs = dict(processor(images=list(job.images), return_tensors="pt"))
            inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).long()
        # Left behind by the picture before, and then used for a text.
        model.model.rope_deltas = None
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=0,
            pad_token_id=0,
            **inputs,
        )
        assert answer.ids == out[0, len(job.ids) :].tolist()


def test_log_probabilities_are_those_of_a_run_over_the_whole(parts: tuple[Any, Any]) -> None:
    model, processor = parts
    torch.manual_seed(0)
    suppressed = [model.config.image_token_id]
    generator = Generator(model, processor, suppressed, [0])
    found = generator(jobs(model), Sampling(8, temperature=1.5))
    for job, answer in zip(jobs(model), found, strict=True):
        ids = torch.tensor([[*job.ids, *answer.ids]])
        inputs: dict[str, Any] = {}
        if job.images:
            inputs = dict(processor(images=list(job.images), return_tensors="pt"))
            inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).long()
        model.model.rope_deltas = None
        with torch.inference_mode():
            logits = model(ids, **inputs).logits[0].float() / 1.5
        chances = torch.log_softmax(logits, -1)[len(job.ids) - 1 : -1]
        expected = chances.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        # Two orders of the same float32 sums.
        assert torch.allclose(torch.tensor(answer.log_probs), expected, atol=1e-4)


def test_suppressed_ids_are_never_sampled_and_end_ids_end(parts: tuple[Any, Any]) -> None:
    model, processor = parts
    torch.manual_seed(0)
    everything = range(model.config.text_config.vocab_size)
    generator = Generator(model, processor, [i for i in everything if i not in (5, 7)], [7])
    found = generator([Job((40, 41))] * 8, Sampling(30))
    assert all(set(answer.ids) <= {5, 7} for answer in found)
    assert all(answer.ids.count(7) <= 1 for answer in found)
    assert all(answer.ids[-1] == 7 or len(answer.ids) == 30 for answer in found)


def test_top_k_and_top_p_leave_the_likeliest() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    assert _cut(logits, Sampling(1, top_k=2)).isfinite().tolist() == [[True, False, True, False]]
    # softmax: 0.644, 0.087, 0.237, 0.032
    assert _cut(logits, Sampling(1, top_p=0.7)).isfinite().tolist() == [[True, False, True, False]]


def test_large_groups_are_cut_and_small_ones_run_together() -> None:
    groups = [list(range(40)), list(range(40, 50)), list(range(50, 150))]
    batches = _batches(groups)
    assert [[len(group) for group in batch] for batch in batches] == [[40, 10], [64], [36]]
