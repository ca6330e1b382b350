"""Text that stands in a picture, read by PP-OCR (the extra `ocr`: rapidocr, models in its wheel).

Lines are looked for in the whole picture and, where letters of 12 pixels would be too small for
that, in enlarged overlapping tiles; each is then read from the picture at full size, in the
direction in which it reads best: upright, tilted, on its side or upside down. A picture in which
nothing is found is looked at once more with its contrast raised against the neighbourhood.

Limits: pictures above `MAX_PIXELS` are reduced to it first. Letters below about 10 pixels, and
faint letters on a busy photo or beside plain ones, may be missed. Cost, in seconds of one (busy)
core: 0.3 to 1.5 for 448 pixels a side, 2 for 736, 7 for 1920x1080.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from proguard_edge.errors import EngineError
from proguard_edge.image.layout import Box, Line, merged, repeated, sides, text_of

INSTALL = 'reading text in images needs an extra: pip install "proguard-edge[ocr]"'

# Lines read with less confidence count as unread: on photos they are bark and fur.
MIN_SCORE = 0.6
# "No" can be read into any fence; a word of three letters may matter.
MIN_LETTERS = 3
MAX_PIXELS = 4_000_000

_SURE = 0.95
# Pixels of a side that is looked at in one go; the size that the detector was made for.
_LOOK, _OVERLAP = 736, 60
# Below this enlargement the detector loses letters of 12 pixels.
_ENLARGED, _MOST_ENLARGED = 1.6, 4.0
_LINE_HEIGHT = 48
_ACCENTED_I = str.maketrans("íìǐÍÌǏ", "iiiIII")

Frame = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class ReadText:
    """What was read in one view: `text` in reading order, made of `lines`; `unread` lines were
    found and not made out."""

    text: str = ""
    lines: tuple[Line, ...] = ()
    unread: tuple[Line, ...] = ()

    @property
    def found(self) -> bool:
        """Whether there are at least `MIN_LETTERS` letters."""
        return sum(line.letters for line in self.lines) >= MIN_LETTERS

    @property
    def legible(self) -> bool:
        """Whether more of the text, by area, was read than was not."""
        return sum(x.area for x in self.lines) >= sum(x.area for x in self.unread)

    @property
    def confidence(self) -> float:
        """Mean over the characters, 0 to 1; 0 where nothing was read."""
        total = sum(len(line.text) for line in self.lines)
        return sum(line.score * len(line.text) for line in self.lines) / total if total else 0.0


class TextReader:
    """Reads views. Its models load with the first one; threads may share it and take turns."""

    def __init__(self, threads: int = 0) -> None:
        """threads: 0 = all cores. Raises EngineError where the extra is not installed."""
        if not installed():
            raise EngineError(INSTALL)
        self._threads, self._lock, self._closed = threads, Lock(), False
        self._engine: Any = None

    @property
    def identity(self) -> str:
        """The library and its version, which decide what is read."""
        from importlib.metadata import version

        return f"rapidocr {version('rapidocr')}"

    def read(self, view: Image.Image) -> ReadText:
        """The text in an RGB picture. Raises EngineError."""
        with self._lock:
            if self._closed:
                raise EngineError("the text reader is closed; load the guard again")
            try:
                return self._read(_reduced(view))
            except EngineError:
                raise
            # The library raises whatever OpenCV and its own steps run into.
            except Exception as error:  # noqa: BLE001
                what = (str(error) or type(error).__name__).strip().splitlines()[-1]
                raise EngineError(f"reading the text in the image failed: {what}") from None

    def _read(self, view: Image.Image) -> ReadText:
        if _is_flat(view):
            return ReadText()
        if self._engine is None:
            self._engine = _load(self._threads)
        clear = ImageOps.autocontrast(view)
        found = self._lines(clear, _looks(clear))
        if not found.found:
            raised = self._lines(_raised(view), [next(_looks(view))])
            found = raised if raised.found else found
        return found

    def _lines(self, view: Image.Image, looks: Iterable[tuple[Frame, float]]) -> ReadText:
        boxes = [box for frame, scale in looks for box in self._boxes(view, frame, scale)]
        lines = [self._line(view, box) for box in merged(boxes)]
        read: list[Line] = []
        unread: list[Line] = []
        for line in sorted(lines, key=lambda line: -line.score * len(line.text)):
            if not any(repeated(line, other) for other in read):
                (read if line.score >= MIN_SCORE and line.text.strip() else unread).append(line)
        missed = [x for x in unread if not any(repeated(x, other) for other in read)]
        return ReadText(text_of(read), tuple(read), tuple(missed))

    def _boxes(self, view: Image.Image, frame: Frame, scale: float) -> list[Box]:
        """Boxes of lines in a frame (left, top, right, bottom) of the view, in its pixels."""
        part = view.crop(frame)
        if _is_flat(part):
            return []
        size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
        pixels = _bgr(part.resize(size, Image.Resampling.BICUBIC))
        margins = [(0, max(0, 64 - side)) for side in pixels.shape[:2]]
        pixels = np.pad(pixels, [*margins, (0, 0)], mode="edge")
        found = self._engine(pixels, use_det=True, use_cls=False, use_rec=False).boxes
        step = np.array([part.width / size[0], part.height / size[1]])
        return [np.array(box, float) * step + frame[:2] for box in ([] if found is None else found)]

    def _line(self, view: Image.Image, box: Box) -> Line:
        """The line read in the direction that reads best."""
        across, down = sides(box)
        turns = (1, 3, 0, 2) if down > across else (0, 2, 1, 3)
        # A long line can only be read along its length.
        possible = turns[:2] if max(across, down) > 1.5 * min(across, down) else turns
        lines: list[Line] = []
        for turn in possible:
            lines.append(self._turned(view, np.roll(box, -turn, axis=0)))
            if lines[-1].score >= _SURE:
                break
        return max(lines, key=lambda line: line.score)

    def _turned(self, view: Image.Image, box: Box) -> Line:
        """Read from box[0] to box[1]."""
        length, height = sides(box)
        width = max(16, round(_LINE_HEIGHT * length / max(height, 1.0)))
        corners = tuple(box[[0, 3, 2, 1]].ravel().tolist())
        quad = Image.Transform.QUAD
        crop = view.transform((width, _LINE_HEIGHT), quad, corners, Image.Resampling.BICUBIC)
        found = self._engine(_bgr(crop), use_det=False, use_cls=False, use_rec=True)
        return Line(_plain(str(found.txts[0])), float(found.scores[0]), box)

    def close(self) -> None:
        """Free the models."""
        with self._lock:
            self._engine, self._closed = None, True


def installed() -> bool:
    """Whether the extra is there; nothing is imported."""
    return importlib.util.find_spec("rapidocr") is not None


def _load(threads: int) -> Any:
    try:
        import rapidocr
        from rapidocr import RapidOCR
    except (ImportError, OSError) as error:
        raise EngineError(f"{INSTALL} ({error})") from None
    models = Path(rapidocr.__file__).parent / "models"
    return RapidOCR(
        params={
            # With a path of its own each part loads just that file; without one it downloads.
            "Det.model_path": _model(models, "det"),
            "Rec.model_path": _model(models, "rec"),
            "Det.limit_type": "max",
            "Det.limit_side_len": 10_000,
            "Global.use_cls": False,
            "Global.use_preprocess_img": False,
            "Global.use_vertical_padding": False,
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads or -1,
        }
    )


def _model(folder: Path, part: str) -> str:
    known = folder / f"PP-OCRv6_{part}_small.onnx"
    others = sorted(folder.glob(f"*_{part}_*.onnx"))
    if known.is_file():
        return str(known)
    if len(others) == 1:
        return str(others[0])
    raise EngineError(f"rapidocr came without its {part} model; pip install 'rapidocr==3.10.*'")


def _reduced(view: Image.Image) -> Image.Image:
    pixels = view.width * view.height
    if pixels <= MAX_PIXELS:
        return view
    shrink = (MAX_PIXELS / pixels) ** 0.5
    size = (max(1, int(view.width * shrink)), max(1, int(view.height * shrink)))
    return view.resize(size, Image.Resampling.LANCZOS)


def _looks(view: Image.Image) -> Iterator[tuple[Frame, float]]:
    """Frames to look at and the enlargement of each: the whole, and tiles if that is coarse."""
    longer = max(view.size)
    fitting = min(_MOST_ENLARGED, _LOOK / longer)
    yield (0, 0, view.width, view.height), fitting if longer > _LOOK else max(fitting, _ENLARGED)
    if longer > _LOOK:
        for top in _steps(view.height):
            for left in _steps(view.width):
                right, bottom = min(left + _LOOK, view.width), min(top + _LOOK, view.height)
                yield (left, top, right, bottom), _ENLARGED


def _steps(side: int) -> list[int]:
    """Evenly spread begins of tiles that cover `side` pixels and overlap."""
    if side <= _LOOK:
        return [0]
    count = -(-(side - _OVERLAP) // (_LOOK - _OVERLAP))
    return [i * (side - _LOOK) // (count - 1) for i in range(count)]


def _is_flat(part: Image.Image) -> bool:
    pixels = np.asarray(part)
    return int(np.ptp(pixels, axis=(0, 1)).max()) < 4


def _plain(text: str) -> str:
    """PP-OCR takes an italic i for í: accents on this letter alone are no language's."""
    plain = text.translate(_ACCENTED_I)
    return plain if plain.isascii() else text


def _raised(view: Image.Image) -> Image.Image:
    """Brightness against the mean of the neighbourhood, eight times as strong."""
    grey = view.convert("L")
    ground = np.asarray(grey.filter(ImageFilter.BoxBlur(20)), float)
    raised = 128 + 8 * (np.asarray(grey, float) - ground)
    return Image.fromarray(raised.clip(0, 255).astype(np.uint8)).convert("RGB")


def _bgr(view: Image.Image) -> npt.NDArray[np.uint8]:
    # PP-OCR was trained on OpenCV's channel order.
    return np.ascontiguousarray(np.asarray(view)[:, :, ::-1])
