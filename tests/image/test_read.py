"""The text reader: a sentence is read whichever way it stands in the picture, and in order."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from proguard_edge.errors import EngineError
from proguard_edge.image import read as read_module
from proguard_edge.image.layout import Line, merged, repeated, text_of
from proguard_edge.image.read import ReadText, TextReader

SENTENCE = "Bring the blue boat\nback before noon."


@pytest.fixture(scope="module")
def reader() -> Iterator[TextReader]:
    pytest.importorskip("rapidocr")
    reader = TextReader(threads=2)
    yield reader
    reader.close()


def picture(
    text: str = SENTENCE,
    size: int = 24,
    ink: str | tuple[int, int, int] = "black",
    paper: str | tuple[int, int, int] = "white",
    margin: int = 16,
) -> Image.Image:
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    _, _, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
    image = Image.new("RGB", (int(right) + 2 * margin, int(bottom) + 2 * margin), paper)
    ImageDraw.Draw(image).multiline_text((margin, margin), text, fill=ink, font=font)
    return image


def turned(degrees: float) -> Image.Image:
    bicubic = Image.Resampling.BICUBIC
    return picture().rotate(degrees, bicubic, expand=True, fillcolor="white")


def plain(text: str) -> str:
    return " ".join(text.split())


PICTURES = {
    "straight": picture(),
    "on its right side": picture().transpose(Image.Transpose.ROTATE_270),
    "on its left side": picture().transpose(Image.Transpose.ROTATE_90),
    "upside down": picture().transpose(Image.Transpose.ROTATE_180),
    "tilted left": turned(15),
    "tilted right": turned(-15),
    "light on dark": picture(ink="white", paper="navy"),
    "faint": picture(ink=(138, 138, 138), paper=(128, 128, 128)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_sentence_is_read_whichever_way_it_stands(reader, name):
    found = reader.read(PICTURES[name])
    assert plain(found.text) == plain(SENTENCE)
    assert found.found
    assert found.legible
    assert found.confidence > 0.9


def test_letters_of_ten_pixels_are_read_but_for_a_letter_or_a_space(reader):
    found = reader.read(picture(size=10)).text.replace(" ", "").replace("\n", "")
    expected = SENTENCE.replace(" ", "").replace("\n", "")
    assert len(found) == len(expected)
    assert sum(a != b for a, b in zip(found, expected, strict=True)) <= 2


def test_small_letters_on_a_large_picture_are_read(reader):
    large = Image.new("RGB", (1000, 500), "white")
    large.paste(picture(size=13), (560, 300))
    assert plain(reader.read(large).text) == plain(SENTENCE)


def test_a_list_keeps_its_lines_and_a_sentence_is_made_whole(reader):
    text = "Steps to bake a cake\nwithout any eggs.\n1.\n2.\n3."
    assert reader.read(picture(text)).text == "Steps to bake a cake without any eggs.\n1.\n2.\n3."


def test_a_faint_word_on_a_gradient_is_read_against_its_neighbourhood(reader):
    ramp = np.tile(np.linspace(40, 215, 420)[None, :, None], (110, 1, 3))
    ink = np.asarray(picture(margin=20).convert("L").resize((420, 110)), float)[..., None]
    faint = Image.fromarray((ramp + 14 * (1 - ink / 255)).astype(np.uint8))
    assert "boat" in reader.read(faint).text


def test_a_picture_without_text_has_none(reader):
    assert reader.read(Image.new("RGB", (300, 200), "green")).text == ""
    noise = np.random.default_rng(1).integers(0, 255, (16, 16, 3), np.uint8)
    scene = Image.fromarray(noise).resize((320, 320), Image.Resampling.BICUBIC)
    assert not reader.read(scene).found


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (2000, 3), (57, 31)])
def test_a_picture_of_any_shape_is_read_or_empty_but_never_a_crash(reader, size):
    noise = np.random.default_rng(2).integers(0, 255, (size[1], size[0], 3), np.uint8)
    assert isinstance(reader.read(Image.fromarray(noise)), ReadText)


def test_threads_that_share_a_reader_read_what_one_reads(reader):
    pictures = [picture("first sentence"), picture("another one"), picture("third of them")]
    with ThreadPoolExecutor(3) as pool:
        found = [text.text for text in pool.map(reader.read, pictures)]
    assert found == ["first sentence", "another one", "third of them"]


def test_a_closed_reader_and_one_that_fails_are_engine_errors(monkeypatch):
    pytest.importorskip("rapidocr")
    broken = TextReader()

    def fail(*_: object, **__: object) -> None:
        raise ValueError("first line\nOpenCV: bad size")

    monkeypatch.setattr(read_module, "_load", lambda _threads: fail)
    with pytest.raises(EngineError, match="failed: OpenCV: bad size"):
        broken.read(picture())
    broken.close()
    with pytest.raises(EngineError, match="closed"):
        broken.read(picture())


def test_without_the_extra_the_error_names_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EngineError, match=r'pip install "proguard-edge\[ocr\]"'):
        TextReader()


def test_an_extra_that_cannot_be_imported_is_an_engine_error(monkeypatch):
    monkeypatch.setattr(read_module, "installed", lambda: True)
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(EngineError, match=r"proguard-edge\[ocr\]"):
        TextReader().read(picture())


def test_a_library_without_its_models_is_an_error_and_downloads_nothing(tmp_path):
    with pytest.raises(EngineError, match="without its det model"):
        read_module._model(tmp_path, "det")
    (tmp_path / "Other_det_tiny.onnx").touch()
    assert Path(read_module._model(tmp_path, "det")).name == "Other_det_tiny.onnx"
    (tmp_path / "Third_det_tiny.onnx").touch()
    with pytest.raises(EngineError, match="without its det model"):
        read_module._model(tmp_path, "det")


def test_an_italic_i_is_no_accent_but_a_language_keeps_its_own():
    assert read_module._plain("gíve me the detaìls") == "give me the details"
    assert read_module._plain("así se hace mañana") == "así se hace mañana"


def box(left: float, top: float, right: float, bottom: float, degrees: float = 0) -> np.ndarray:
    """Corners of a frame, turned around the origin."""
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return corners @ turn


@pytest.mark.parametrize("degrees", [0, 15, 100, 180, 300])
def test_parts_of_a_line_that_overlap_become_one_box(degrees):
    parts = [box(0, 0, 100, 20, degrees), box(80, 1, 200, 21, degrees)]
    other = box(0, 30, 100, 50, degrees)
    found = merged([parts[0], other, parts[1]])
    assert len(found) == 2
    longest = max(found, key=lambda b: np.ptp(b, axis=0).max())
    assert np.allclose(longest, box(0, 0, 200, 21, degrees), atol=0.5)


def test_words_beside_each_other_and_lines_above_each_other_stay_apart():
    apart = [box(0, 0, 50, 20), box(60, 0, 100, 20), box(0, 18, 50, 38), box(0, 0, 50, 60)]
    assert len(merged(apart)) == 4


def test_a_line_that_lies_on_another_repeats_it():
    line = Line("whole line", 0.9, box(0, 0, 100, 20))
    assert repeated(line, Line("part", 0.9, box(40, -10, 60, 30)))
    assert not repeated(line, Line("next line", 0.9, box(0, 18, 100, 38)))


@pytest.mark.parametrize("degrees", [0, 20, 90, 180, 270])
def test_lines_are_put_in_order_whichever_way_they_run(degrees):
    words = {"One": (0, 0), "two": (60, 2), "three-": (0, 24), "fold": (0, 48), "Next": (0, 110)}
    lines = [Line(text, 0.9, box(x, y, x + 50, y + 20, degrees)) for text, (x, y) in words.items()]
    assert text_of(lines[::-1]) == "One two three-fold\nNext"


def test_lines_that_run_in_another_direction_are_a_paragraph_of_their_own():
    lines = [
        Line("the larger text", 0.9, box(0, 0, 300, 30)),
        Line("side", 0.9, box(0, -350, 50, -330, 90)),
        Line("goes on", 0.9, box(0, 32, 200, 62)),
    ]
    assert text_of(lines) == "the larger text goes on\nside"
