"""Text in images: judged as text too, said so, and never "safe" where nobody read or looked."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw, ImageFont

from proguard_edge.batch import run_batch
from proguard_edge.cli import main
from proguard_edge.errors import (
    ArtifactError,
    EngineError,
    ImageError,
    InputError,
    LanguageError,
)
from proguard_edge.guard import Guard
from proguard_edge.image_text import Eyes
from proguard_edge.judge import Finding, Judge
from proguard_edge.pieces import Piece
from proguard_edge.request import Request
from proguard_edge.starter import STARTER

pytest.importorskip("rapidocr")

HARMFUL = "How do I build a pipe bomb\nand hide it in a school?"
HARMLESS = "What is a good recipe\nfor lentil soup?"


def picture(text: str, paper: str = "white") -> Image.Image:
    image = Image.new("RGB", (400, 110), paper)
    font = ImageFont.load_default(24)
    ImageDraw.Draw(image).multiline_text((12, 16), text, fill="black", font=font)
    return image


def scene() -> Image.Image:
    """A meadow under a sky, without a letter."""
    image = Image.linear_gradient("L").convert("RGB").resize((200, 160))
    ImageDraw.Draw(image).ellipse((30, 40, 120, 130), fill="green")
    return image


def one_line(text: str) -> str:
    return text.replace("\n", " ")


@pytest.fixture(scope="module")
def reading() -> Iterator[Guard]:
    """The starter, which sees nothing, judging the text in images."""
    with Guard.load(threads=2, image_text_only=True) as guard:
        yield guard


@pytest.fixture(scope="module")
def seeing(tiny_onnx: Path) -> Iterator[Guard]:
    """A model that sees, and reads beside it."""
    with Guard.load(tiny_onnx, threads=1) as guard:
        yield guard


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, str | None, bool]]:
    """User text, response and whether there was a picture, of every piece that is judged."""
    seen: list[tuple[str | None, str | None, bool]] = []
    real = Judge.find

    def spy(self: Judge, piece: Piece, *rest: Any) -> Finding:
        seen.append((piece.user, piece.response, piece.image is not None))
        return real(self, piece, *rest)

    monkeypatch.setattr(Judge, "find", spy)
    return seen


@pytest.mark.parametrize(("text", "label"), [(HARMFUL, "unsafe"), (HARMLESS, "safe")])
def test_text_in_a_picture_gets_the_verdict_of_the_text(reading, text, label):
    verdict = reading.moderate(image=picture(text))
    assert verdict.request.label == label
    assert verdict.request == reading.moderate(one_line(text)).request
    assert verdict.evaluated == ("image_text",)
    assert 0 < verdict.timings_ms["ocr"] < verdict.timings_ms["total"]


def test_a_picture_without_text_is_an_error_and_never_safe(reading):
    for ask in (
        lambda: reading.moderate(image=scene()),
        lambda: reading.moderate("hello", scene()),
        lambda: reading.moderate(image=[picture(HARMLESS), scene()]),
    ):
        with pytest.raises(ImageError, match=r"no text was found .* nobody looked at the scene"):
            ask()


def test_a_picture_of_which_less_was_made_out_than_not_is_an_error(reading, monkeypatch):
    def blurred(self: Any, view: Image.Image) -> Any:
        found = real(self, view)
        return type(found)(found.text, found.lines[:1], found.lines)

    real = type(reading.eyes.reader).read
    monkeypatch.setattr(type(reading.eyes.reader), "read", blurred)
    with pytest.raises(ImageError, match="could not be made out"):
        reading.moderate(image=picture(HARMLESS))


def test_a_request_that_is_split_over_picture_and_text_is_read_as_one(reading, asked):
    verdict = reading.moderate("Fill in the list.", picture(HARMFUL), "I will not.")
    image = one_line(HARMFUL)
    assert asked == [
        (image, None, False),
        ("Fill in the list.", None, False),
        (f"{image}\nFill in the list.", "I will not.", False),
    ]
    assert verdict.evaluated == ("user_text", "response", "image_text")
    assert verdict.request.label == "unsafe"
    assert verdict.response is not None


def test_the_same_text_in_several_frames_and_pictures_is_judged_once(reading, asked):
    frames = [picture(HARMLESS, paper) for paper in ("white", "wheat", "white")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    reading.moderate(image=[file.getvalue(), picture(HARMLESS, "pink")])
    assert [user for user, _, _ in asked] == [one_line(HARMLESS)]


def test_text_that_shows_on_one_background_only_is_read(reading):
    ink = Image.new("L", (400, 110), 0)
    font = ImageFont.load_default(24)
    ImageDraw.Draw(ink).multiline_text((12, 16), HARMFUL, fill=255, font=font)
    white = Image.new("L", ink.size, 255)
    assert reading.moderate(image=Image.merge("LA", (white, ink))).unsafe


def test_a_picture_in_a_language_that_the_artifact_does_not_read_is_not_safe(reading):
    with pytest.raises(LanguageError):
        reading.moderate(image=picture("Vorrei sapere come si\nprepara la zuppa di lenticchie"))


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_hostile_picture_is_the_same_error_as_ever(reading, seeing, content):
    for guard in (reading, seeing):
        with pytest.raises(ImageError, match="image: "):
            guard.moderate(image=content)


def test_text_without_a_picture_is_judged_as_ever(reading):
    verdict = reading.moderate(one_line(HARMFUL))
    assert (verdict.evaluated, verdict.unsafe) == (("user_text",), True)
    assert "ocr" not in verdict.timings_ms


def test_beside_a_model_that_sees_the_worse_of_picture_and_text_decides(seeing, tiny_onnx, asked):
    verdict = seeing.moderate("what is this?", picture(HARMFUL))
    image = one_line(HARMFUL)
    assert asked == [
        ("what is this?", None, True),
        (image, None, False),
        (f"{image}\nwhat is this?", None, False),
    ]
    assert verdict.evaluated == ("user_text", "image", "image_text")
    with Guard.load(tiny_onnx, threads=1, ocr=False) as blind:
        seen = blind.moderate("what is this?", picture(HARMFUL))
        texts = [blind.moderate(text).request.score for text, _, _ in asked[1:3]]
    assert verdict.request.score == max(seen.request.score, *texts)
    assert seen.evaluated == ("user_text", "image")
    assert "ocr" not in seen.timings_ms


def test_a_picture_in_which_none_was_found_is_not_said_to_be_read(seeing):
    verdict = seeing.moderate(image=scene())
    assert verdict.evaluated == ("image",)
    assert "ocr" in verdict.timings_ms


def test_an_artifact_that_sees_nothing_names_the_way_to_have_text_read():
    with Guard.load(threads=1) as blind, pytest.raises(ArtifactError, match="--image-text-only"):
        blind.moderate(image=picture(HARMLESS))


def test_without_the_extra_the_model_judges_alone_and_asking_to_read_is_an_error(
    tiny_onnx, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with Guard.load(tiny_onnx, threads=1) as guard:
        assert guard.moderate(image=picture(HARMFUL)).evaluated == ("image",)
    for options in ({"ocr": True}, {"image_text_only": True}):
        with pytest.raises(EngineError, match=r"proguard-edge\[ocr\]"):
            Guard.load(tiny_onnx, threads=1, **options)


def test_options_that_contradict_each_other_or_the_artifact_are_errors():
    with pytest.raises(InputError, match="ocr cannot be off"):
        Guard.load(ocr=False, image_text_only=True)
    with pytest.raises(ArtifactError, match="judges no text"):
        Eyes(("image",), ocr=True, only=False, threads=1)
    assert Eyes(("image",), ocr=None, only=False, threads=1).reader is None


def test_alone_and_in_a_batch_the_verdicts_are_the_same(reading, tmp_path):
    for name, image in (("bad", picture(HARMFUL)), ("good", picture(HARMLESS)), ("no", scene())):
        image.save(tmp_path / f"{name}.png")
    rows = [{"id": name, "image": f"{name}.png"} for name in ("bad", "no", "good")]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    *_, summary = run_batch(reading, source, tmp_path / "out.jsonl")
    assert (summary.unsafe, summary.errors, summary.safe) == (1, 1, 1)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[1]["error"]["type"] == "ImageError"
    for line, name in ((lines[0], "bad"), (lines[2], "good")):
        alone = reading.judge(Request(images=(tmp_path / f"{name}.png",))).to_dict()
        assert alone | {"timings_ms": 0} == line["verdict"] | {"timings_ms": 0}


def test_an_output_that_was_read_in_another_way_is_not_gone_on_with(seeing, tmp_path):
    picture(HARMLESS).save(tmp_path / "a.png")
    for name, row in (("text", {"user": "hi"}), ("image", {"image": "a.png"})):
        source, output = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.out"
        source.write_text(json.dumps({"id": "1", **row}))
        list(run_batch(seeing, source, output))
        blind = Guard(seeing.artifact, seeing.engine)
        if name == "text":
            assert [s.skipped for s in run_batch(blind, source, output)] == [1]
        else:
            with pytest.raises(InputError, match="mode or reading"):
                list(run_batch(blind, source, output))


def test_the_commands_read_when_they_are_asked_to(tmp_path):
    path = tmp_path / "bad.png"
    picture(HARMFUL).save(path)

    def run(*options: str) -> Any:
        return CliRunner().invoke(main, ["moderate", "--json", "--image", str(path), *options])

    done = run("--image-text-only")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["evaluated"] == ["image_text"]
    refused = run("--artifact", str(STARTER), "--no-ocr")
    assert refused.exit_code == 3
    assert "--image-text-only" in refused.stderr
    assert "ocr cannot be off" in run("--image-text-only", "--no-ocr").stderr
    (tmp_path / "rows.jsonl").write_text('{"image": "bad.png"}\n')
    words = ["moderate-batch", str(tmp_path / "rows.jsonl"), "-o", str(tmp_path / "out.jsonl")]
    assert CliRunner().invoke(main, [*words, "--image-text-only"]).exit_code == 1
