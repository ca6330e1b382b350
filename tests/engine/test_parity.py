"""The ONNX engine against transformers in fp32, on a tiny random checkpoint.

Logits of that checkpoint have a standard deviation of about 4; the bound of 1e-4 is the project's
promise, measured differences are near 1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proguard_edge.artifact import Artifact
from proguard_edge.cache import Cache
from proguard_edge.engine import Engine, load_engine
from proguard_edge.image import ImageProcessor, Patches
from proguard_edge.policy import Policy
from proguard_edge.prompt import Prompt, PromptEncoder
from proguard_edge.template import Template

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def engines(tiny_onnx: Path, tiny_hf: Path) -> Iterator[tuple[Engine, Engine]]:
    pair = [load_engine(Artifact.open(f), Cache(None), threads=1) for f in (tiny_onnx, tiny_hf)]
    yield pair[0], pair[1]
    for engine in pair:
        engine.close()


@pytest.fixture(scope="module")
def encoder(tiny_onnx: Path) -> PromptEncoder:
    return PromptEncoder(tiny_onnx / "tokenizer.json", Template.named("edge"), Policy.default())


def picture(seed: int, width: int, height: int) -> Patches:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    processor = ImageProcessor(min_pixels=56 * 56, max_pixels=224 * 224)
    return processor(Image.fromarray(pixels))


CASES: dict[str, tuple[str | None, str | None, list[Patches]]] = {
    "text": ("How do I pick a lock?", None, []),
    "text with response": ("How do I pick a lock?", "With a tension wrench.", []),
    "image": (None, None, [picture(1, 200, 140)]),
    "text and image": ("What is this?", None, [picture(2, 60, 300)]),
    "two images": ("Compare them.", None, [picture(3, 112, 112), picture(4, 224, 90)]),
}


def prompt_of(encoder: PromptEncoder, case: str) -> tuple[Prompt, list[Patches]]:
    user, response, images = CASES[case]
    return encoder.content(user, response, [i.n_tokens for i in images]), images


def logits_of(engine: Engine, prompt: Prompt, images: list[Patches]) -> np.ndarray:
    with engine.start(prompt.prefix_ids) as sequence:
        return sequence.extend(prompt.content_ids, images)


def in_one_piece(engine: Engine, prompt: Prompt, images: list[Patches]) -> np.ndarray:
    ids = np.concatenate([prompt.prefix_ids, prompt.content_ids])
    with engine.start(ids[:1]) as sequence:
        return sequence.extend(ids[1:], images)


@pytest.mark.parametrize("case", CASES)
def test_onnx_logits_equal_those_of_transformers(
    engines: tuple[Engine, Engine], encoder: PromptEncoder, case: str
) -> None:
    onnx, reference = (logits_of(engine, *prompt_of(encoder, case)) for engine in engines)
    assert reference.std() > 1  # otherwise equality would say little
    np.testing.assert_allclose(onnx, reference, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_a_cached_prefix_gives_the_logits_of_the_whole_prompt(
    engines: tuple[Engine, Engine], encoder: PromptEncoder, case: str
) -> None:
    onnx, reference = engines
    prompt, images = prompt_of(encoder, case)
    whole = in_one_piece(reference, prompt, images)
    np.testing.assert_allclose(logits_of(onnx, prompt, images), whole, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(in_one_piece(onnx, prompt, images), whole, rtol=0, atol=TOLERANCE)


def test_interleaved_requests_do_not_touch_each_other(
    engines: tuple[Engine, Engine], encoder: PromptEncoder
) -> None:
    onnx = engines[0]
    alone = {case: logits_of(onnx, *prompt_of(encoder, case)) for case in CASES}
    sequences, half = {}, {}
    for case in CASES:
        prompt, _ = prompt_of(encoder, case)
        sequences[case] = onnx.start(prompt.prefix_ids)
    for case, sequence in sequences.items():
        prompt, images = prompt_of(encoder, case)
        if not images:
            sequence.extend(prompt.content_ids[:3])
            half[case] = True
    for case, sequence in sequences.items():
        prompt, images = prompt_of(encoder, case)
        logits = sequence.extend(prompt.content_ids[3 if case in half else 0 :], images)
        sequence.close()
        np.testing.assert_allclose(logits, alone[case], rtol=0, atol=1e-5)


def test_a_repeated_request_gives_the_same_bits(
    engines: tuple[Engine, Engine], encoder: PromptEncoder
) -> None:
    first = {case: logits_of(engines[0], *prompt_of(encoder, case)) for case in CASES}
    for case in reversed(CASES):
        again = logits_of(engines[0], *prompt_of(encoder, case))
        assert np.array_equal(first[case], again)


def test_candidates_are_entries_of_the_whole_vocabulary(
    engines: tuple[Engine, Engine], encoder: PromptEncoder
) -> None:
    prompt, images = prompt_of(encoder, "text")
    whole = logits_of(engines[0], prompt, images)
    wanted = np.array([3, 200, 17])
    with engines[0].start(prompt.prefix_ids) as sequence:
        few = sequence.extend(prompt.content_ids, images, wanted)
    np.testing.assert_allclose(few, whole[wanted], rtol=0, atol=1e-5)


def test_a_perturbed_prefix_is_noticed(
    engines: tuple[Engine, Engine], encoder: PromptEncoder
) -> None:
    """Negative control: if this held, the comparisons above would prove nothing."""
    prompt, images = prompt_of(encoder, "text")
    right = logits_of(engines[0], prompt, images)
    with engines[0].start(prompt.prefix_ids) as sequence:
        sequence.buffer.data[0, 0, :, :, 5] += 1  # type: ignore[attr-defined]
        wrong = sequence.extend(prompt.content_ids, images)
        sequence.buffer.prefix = None  # type: ignore[attr-defined]
    assert np.abs(wrong - right).max() > 100 * TOLERANCE


def test_shifted_positions_are_noticed(
    engines: tuple[Engine, Engine], encoder: PromptEncoder
) -> None:
    """Negative control for the rotary positions behind the prefix."""
    prompt, images = prompt_of(encoder, "text")
    right = logits_of(engines[0], prompt, images)
    with engines[0].start(prompt.prefix_ids) as sequence:
        sequence._position += 1  # type: ignore[attr-defined]
        wrong = sequence.extend(prompt.content_ids, images)
    assert np.abs(wrong - right).max() > 100 * TOLERANCE


def test_another_picture_of_the_same_size_gives_other_logits(
    engines: tuple[Engine, Engine], encoder: PromptEncoder
) -> None:
    prompt, images = prompt_of(encoder, "image")
    right = logits_of(engines[0], prompt, images)
    other = logits_of(engines[0], prompt, [picture(99, 200, 140)])
    assert np.abs(other - right).max() > 100 * TOLERANCE


def test_a_prefix_from_the_disk_gives_the_same_bits(
    tiny_onnx: Path, encoder: PromptEncoder, tmp_path: Path
) -> None:
    prompt, images = prompt_of(encoder, "text")
    found = []
    for _ in range(2):
        engine = load_engine(Artifact.open(tiny_onnx), Cache(tmp_path), threads=1)
        found.append(logits_of(engine, prompt, images))
        engine.close()
    assert len(list((tmp_path / "prefix").iterdir())) == 1
    assert np.array_equal(*found)
