"""Pictures arrive as the guard would have seen them, policies as they were."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from proguard_edge.client.content import body_of, data_url
from proguard_edge.errors import ImageError
from proguard_edge.image import View, load_image
from proguard_edge.policies.reader import policy_of
from proguard_edge.policy import Policy
from proguard_edge.request import Request

ORIENTATION, ARTIST = 0x0112, 0x013B


def sent(image: Image.Image | bytes | Path | str) -> bytes:
    head, _, encoded = data_url(image).partition(",")
    assert head == "data:application/octet-stream;base64"
    return base64.b64decode(encoded, validate=True)


def noise(mode: str) -> Image.Image:
    values = np.random.default_rng(7).integers(0, 256, (9, 7, 4), np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def sixteen_bits() -> Image.Image:
    values = np.random.default_rng(7).integers(0, 65536, (9, 7), np.uint16)
    return Image.fromarray(values)


def palette_with_a_clear_colour() -> Image.Image:
    image = noise("RGB").quantize(16)
    image.info["transparency"] = 3
    return image


def grey_with_a_clear_shade() -> Image.Image:
    image = noise("L")
    image.info["transparency"] = image.getpixel((0, 0))
    return image


def turned() -> Image.Image:
    image = noise("RGB")
    image.getexif()[ORIENTATION] = 6
    image.getexif()[ARTIST] = "a name that nobody needs"
    return image


PICTURES: dict[str, Callable[[], Image.Image]] = {
    **{mode: lambda mode=mode: noise(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    **{mode: lambda mode=mode: noise("RGB").convert(mode) for mode in ("CMYK", "YCbCr", "HSV")},
    "16 bits": sixteen_bits,
    "clear palette": palette_with_a_clear_colour,
    "clear grey": grey_with_a_clear_shade,
    "turned": turned,
}


def pixels(views: list[View]) -> list[tuple[str, bytes]]:
    return [(view.label, view.image.tobytes()) for view in views]


@pytest.mark.parametrize("case", PICTURES)
def test_a_pil_image_is_seen_as_it_was(case: str) -> None:
    image = PICTURES[case]()
    assert pixels(load_image(sent(image))) == pixels(load_image(image))


def test_what_a_picture_says_of_its_author_stays_here() -> None:
    assert b"nobody needs" not in sent(turned())


@pytest.mark.parametrize("mode", ["F", "I", "LAB", "PA", "RGBa"])
def test_a_mode_that_cannot_be_sent_as_it_is_is_an_error(mode: str) -> None:
    with pytest.raises(ImageError, match="cannot be sent"):
        data_url(Image.new(mode, (3, 3)))


def test_files_and_bytes_are_sent_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert sent(path) == sent(str(path)) == sent(path.read_bytes()) == path.read_bytes()
    with Image.open(path) as animated, pytest.raises(ImageError, match="several frames"):
        data_url(animated)


def test_a_pil_image_of_a_cut_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    noise("RGB").resize((300, 300)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with Image.open(path) as image, pytest.raises(ImageError, match="PNG"):
        data_url(image)


def test_a_policy_arrives_as_an_equal_one() -> None:
    policy = Policy.default().without(["C1"])
    body = json.loads(body_of(Request("hello"), policy, None))
    assert policy_of(body["policy"]).digest() == policy.digest()


def test_what_was_not_given_is_not_sent() -> None:
    assert json.loads(body_of(Request("hello"), None, None)) == {"user": "hello"}
    assert json.loads(body_of(Request(""), "strict", "reason")) == {
        "user": "", "policy": "strict", "mode": "reason",
    }  # fmt: skip
