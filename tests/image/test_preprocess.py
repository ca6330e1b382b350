import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from proguard_edge.errors import ArtifactError, ImageError
from proguard_edge.image.preprocess import ImageProcessor, Patches

QWEN25_VL = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def reference(**settings):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    return module.Qwen2VLImageProcessorPil(**settings)


SIZES = [
    (1, 1), (2, 1), (27, 29), (28, 28), (42, 70), (56, 56), (57, 55), (100, 100), (224, 224),
    (448, 336), (640, 479), (1, 200), (200, 1), (3, 599), (1999, 10), (13, 14), (1400, 1001),
]  # fmt: skip


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize(
    ("least", "most"), [(3136, 1003520), (3136, 50176), (100352, 200704), (1, 784)]
)
def test_the_patches_are_those_of_transformers_bit_for_bit(width, height, least, most):
    image = noise(width, height)
    theirs = reference(min_pixels=least, max_pixels=most)(image, return_tensors="np")
    ours = ImageProcessor(min_pixels=least, max_pixels=most)(image)
    assert ours.pixels.dtype == np.float32
    assert ours.grid == tuple(theirs["image_grid_thw"][0])
    assert ours.pixels.shape == theirs["pixel_values"].shape
    assert np.abs(ours.pixels - theirs["pixel_values"]).max() == 0.0


@settings(derandomize=True, max_examples=300, deadline=None)
@given(
    height=st.integers(1, 6000),
    width=st.integers(1, 6000),
    least=st.integers(1, 300_000),
    more=st.integers(0, 3_000_000),
)
def test_the_resized_size_is_that_of_transformers(height, width, least, more):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    ours = ImageProcessor(min_pixels=least, max_pixels=least + more)
    try:
        theirs = module.smart_resize(height, width, 28, least, least + more)
    except ValueError:
        with pytest.raises(ImageError):
            ours.smart_resize(height, width)
    else:
        assert ours.smart_resize(height, width) == theirs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"min_pixels": None, "max_pixels": None},
        {"min_pixels": None, "size": {"shortest_edge": 200704, "longest_edge": 401408}},
        {
            "min_pixels": None,
            "max_pixels": None,
            "size": {"shortest_edge": 6272, "longest_edge": 50176},
        },
        {"max_pixels": 25088, "size": {"shortest_edge": 784, "longest_edge": 401408}},
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.25, 1.0]},
        {"patch_size": 16, "merge_size": 1, "temporal_patch_size": 1},
    ],
)
def test_a_hf_config_gives_the_patches_that_transformers_makes_of_it(changes):
    config = {k: v for k, v in (QWEN25_VL | changes).items() if v is not None}
    image = noise(500, 120)
    known = {
        k: v for k, v in config.items() if k not in ("image_processor_type", "processor_class")
    }
    theirs = reference(**known)(image, return_tensors="np")
    ours = ImageProcessor.from_hf(config)(image)
    assert ours.grid == tuple(theirs["image_grid_thw"][0])
    assert np.abs(ours.pixels - theirs["pixel_values"]).max() == 0.0


def test_a_picture_of_448_by_336_has_192_tokens():
    patches = ImageProcessor()(noise(448, 336))
    assert patches.grid == (1, 24, 32)  # 336/14, 448/14
    assert patches.pixels.shape == (768, 1176)  # 3 * 2 * 14 * 14
    assert patches.n_tokens == 192  # 768 / 2**2


@pytest.mark.parametrize(("width", "height"), [(1, 201), (402, 2), (6001, 30)])
def test_a_picture_more_than_200_times_longer_than_wide_is_refused(width, height):
    with pytest.raises(ImageError, match="200"):
        ImageProcessor()(Image.new("RGB", (width, height)))


def test_a_picture_that_is_not_rgb_is_refused():
    with pytest.raises(ImageError, match="load_image"):
        ImageProcessor()(Image.new("RGBA", (56, 56)))


def test_settings_survive_json():
    ours = ImageProcessor(min_pixels=784, max_pixels=50176, mean=(0.5, 0.4, 0.3), std=(1, 0.5, 2))
    assert ImageProcessor.from_json(json.loads(json.dumps(ours.to_json()))) == ours


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 0},
        {"patch_size": "14"},
        {"patch_size": True},
        {"merge_size": 2.0},
        {"min_pixels": 10_000_000},
        {"mean": [0.5, 0.5]},
        {"mean": ["a", 0.5, 0.5]},
        {"std": [0.5, 0.0, 0.5]},
        {"std": [0.5, float("nan"), 0.5]},
        {"colour": "red"},
    ],
)
def test_settings_that_make_no_sense_are_artifact_errors(change):
    with pytest.raises(ArtifactError):
        ImageProcessor.from_json(ImageProcessor().to_json() | change)


def test_a_missing_setting_is_an_artifact_error():
    values = ImageProcessor().to_json()
    del values["std"]
    with pytest.raises(ArtifactError, match="std"):
        ImageProcessor.from_json(values)


@pytest.mark.parametrize(
    "change",
    [{"do_resize": False}, {"do_normalize": False}, {"resample": 2}, {"rescale_factor": 1 / 127.5}],
)
def test_a_hf_config_with_other_steps_is_refused(change):
    with pytest.raises(ArtifactError):
        ImageProcessor.from_hf(QWEN25_VL | change)


def test_equal_pictures_have_equal_digests():
    processor = ImageProcessor()
    assert processor(noise(90, 60)).digest() == processor(noise(90, 60)).digest()


@pytest.mark.parametrize("at", [(0, 0), (55, 55), (31, 17)])
def test_one_changed_pixel_changes_the_digest(at):
    image = noise(56, 56)
    before = ImageProcessor()(image).digest()
    red, green, blue = image.getpixel(at)
    image.putpixel(at, (red, green, blue ^ 1))
    assert ImageProcessor()(image).digest() != before


def test_the_same_bytes_in_another_grid_or_from_other_settings_have_another_digest():
    processor = ImageProcessor()
    pixels = np.zeros((64, 1176), dtype=np.float32)
    digests = {
        Patches(pixels, (1, 8, 8), processor).digest(),
        Patches(pixels, (1, 4, 16), processor).digest(),
        Patches(pixels, (1, 16, 4), processor).digest(),
        Patches(pixels.reshape(32, 2352), (1, 8, 8), processor).digest(),
        Patches(pixels, (1, 8, 8), ImageProcessor(max_pixels=784 * 99)).digest(),
    }
    assert len(digests) == 5
