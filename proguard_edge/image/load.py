"""Untrusted image bytes to RGB views, or an error that says why not.

A picture does not always look the same to whoever opens it. `load_image` therefore returns every
*view* that a viewer or another pipeline may show, and the guard takes the worst verdict of them:

- Alpha. Text can be hidden in the alpha channel so that it shows on one background only. An image
  with any pixel that is not opaque is composited on black *and* on white: two views. Code that
  drops alpha (`convert("RGB")`) sees the colours underneath instead; when these colours are not
  all one, they are a third view, "alpha ignored".
- Sixteen bits. The full range is scaled to 0..255. Pillow's own `convert` clips at 255 instead, so
  a picture drawn in the values 0..255 is black for one reader and plain for the other; when the
  clipped picture holds anything it is a second view, "clipped to 8 bits".
- Animation (GIF, WebP, APNG, the pages of a TIFF, the pictures of an MPO). By default up to four
  frames, evenly spread, the first and the last among them. A picture that stands in one frame
  between the samples is missed: `frames="all"` looks at every one, and is an error above
  `max_frames`.
- Orientation from EXIF is applied. EXIF that cannot be read counts as upright.

Modes without a defined white (32-bit integers, floats) and LAB are refused: any choice of
brightness would be a guess. Limits are checked on the header, before pixels are decoded.
"""

from __future__ import annotations

import contextlib
import io
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from proguard_edge.errors import ImageError, InputError, LimitError

ACCEPTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_ACCEPTED_NAMES = "JPEG, PNG, WebP, GIF, BMP or TIFF"

FrameChoice = Literal["first", "sampled", "all"]


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost. Larger is a LimitError, never a smaller picture.

    max_bytes: encoded size, bytes. max_pixels: width x height of a frame. max_side: pixels.
    max_frames: most frames that `frames="all"` looks at. sampled_frames: how many frames
    `frames="sampled"` looks at. max_animation_frames: most frames that an animation may have at
    all, because finding the last one means walking through the others. max_work_pixels: pixels
    decoded on the way, that is frames (or the scans of a progressive JPEG) times their size.
    Pillow's own bound, twice `PIL.Image.MAX_IMAGE_PIXELS`, holds above `max_pixels`.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 40_000_000
    max_side: int = 20_000
    max_frames: int = 64
    sampled_frames: int = 4
    max_animation_frames: int = 2_000
    max_work_pixels: int = 500_000_000


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, eq=False)
class View:
    """One way in which the picture can be seen.

    image: RGB, uint8, upright. label: for a person, such as "frame 3 of 40, on white", or "image".
    frame: index of the frame, from 0.
    """

    image: Image.Image
    label: str
    frame: int = 0


def load_image(
    source: str | Path | bytes | Image.Image,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    frames: FrameChoice = "sampled",
    name: str | None = None,
) -> list[View]:
    """Decode `source` into one or more RGB views; the order is fixed by the content.

    source: a path, the encoded bytes, or a PIL image (whose other frames are looked at too).
    name: what error messages call the image; the file's name by default.

    Raises LimitError above a limit, ImageError for everything else that is not a whole, readable
    image of an accepted format. Warnings that Pillow gives about metadata follow the process's
    filter; one that the filter makes an error is an ImageError.
    """
    shown = _one_line(name if name is not None else _name_of(source))
    try:
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise ImageError(
                f"{shown}: this process lets Pillow accept truncated images; "
                "set PIL.ImageFile.LOAD_TRUNCATED_IMAGES to False"
            )
        if isinstance(source, Image.Image):
            return _views_of_callers_image(source, limits, frames, shown)
        data = source if isinstance(source, bytes) else read_file(source, limits, shown)
        return _views_of_bytes(data, limits, frames, shown)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise LimitError(
            f"{shown}: more pixels than the limit of {limits.max_pixels}, or than Pillow's own; "
            "send a smaller image"
        ) from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{shown}: not a {_ACCEPTED_NAMES} image, or its header is damaged; "
            "convert it to one of these formats"
        ) from None
    # Pillow's decoders raise whatever their parsing runs into (struct.error, KeyError, zlib.error,
    # MemoryError ...). Whatever it is, nothing was seen, and the caller must learn just that.
    except Exception as error:  # noqa: BLE001
        raise ImageError(
            f"{shown}: truncated or damaged, it cannot be decoded "
            f"({_one_line(str(error) or type(error).__name__)}); save it again as PNG or JPEG"
        ) from None


def _name_of(source: object) -> str:
    if isinstance(source, str | Path):
        return Path(source).name or str(source)
    return "image"


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:100]


def read_file(path: str | Path, limits: ImageLimits, shown: str) -> bytes:
    """The bytes of a regular file, at most one more than `limits.max_bytes`.

    shown: what errors call it. Raises ImageError.
    """
    if not isinstance(path, str | Path):
        raise ImageError(
            f"{shown}: an image is a path, bytes or a PIL image, not {type(path).__name__}"
        )
    try:
        status = Path(path).stat()
        # A pipe or a device would block, or never end.
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{shown}: not a regular file; give the path of an image file")
        with Path(path).open("rb") as file:
            return file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise ImageError(
            f"{shown}: cannot be read ({reason}); check the path and its permissions"
        ) from None


def _views_of_bytes(
    data: bytes, limits: ImageLimits, frames: FrameChoice, shown: str
) -> list[View]:
    if not data:
        raise ImageError(f"{shown}: empty (0 bytes); send the whole file")
    if len(data) > limits.max_bytes:
        raise LimitError(
            f"{shown}: larger than the limit of {limits.max_bytes} bytes; send a smaller image"
        )
    with Image.open(io.BytesIO(data), formats=ACCEPTED) as image:
        _check_size(image, limits, shown)
        _check_stream(image, data, limits, shown)
        return list(_views(image, limits, frames, shown))


def _views_of_callers_image(
    image: Image.Image, limits: ImageLimits, frames: FrameChoice, shown: str
) -> list[View]:
    _check_size(image, limits, shown)
    here = image.tell()
    try:
        return list(_views(image, limits, frames, shown))
    finally:
        if image.tell() != here:
            image.seek(here)


def _check_size(image: Image.Image, limits: ImageLimits, shown: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{shown}: {width}x{height} has no pixels; send a real image")
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise LimitError(
            f"{shown}: {width}x{height} is above the limit of {limits.max_pixels} pixels "
            f"or {limits.max_side} a side; send a smaller image"
        )


def _check_stream(image: Image.Image, data: bytes, limits: ImageLimits, shown: str) -> None:
    """Refuse streams that Pillow would read for minutes, or read otherwise than a browser does."""
    if image.format == "GIF":
        _check_length(_gif_frames(data, limits.max_animation_frames, shown), limits, shown)
    elif image.format == "PNG":
        # Pillow drops an animation header that it finds odd and shows one picture.
        at = data.find(b"\x00\x00\x00\x08acTL")
        declared = int.from_bytes(data[at + 8 : at + 12], "big") if at >= 0 else 1
        if declared != 1 and getattr(image, "n_frames", 1) == 1:
            raise ImageError(f"{shown}: its animation header is damaged; save it again")


def _check_length(count: int, limits: ImageLimits, shown: str) -> None:
    if count > limits.max_animation_frames:
        raise LimitError(
            f"{shown}: an animation of more than {limits.max_animation_frames} frames; "
            "send a shorter one, or its frames one by one"
        )


def _check_work(passes: int, image: Image.Image, limits: ImageLimits, shown: str) -> None:
    width, height = image.size
    if passes * width * height > limits.max_work_pixels:
        raise LimitError(
            f"{shown}: {passes} frames or scans of {width}x{height} are above the limit of "
            f"{limits.max_work_pixels} decoded pixels; send a smaller or a shorter image"
        )


_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)


def _check_scans(image: Image.Image, limits: ImageLimits, shown: str) -> None:
    """Count the scans of a JPEG that is not decoded yet: each passes over all pixels."""
    if not isinstance(image, ImageFile.ImageFile) or image.format not in ("JPEG", "MPO"):
        return
    if image.fp is None or not image.tile:
        return
    # The decoder finds its own place again before it reads.
    image.fp.seek(image.tile[0][2])
    data, at, scans = image.fp.read(), 2, 0
    while (marker := _JPEG_MARKER.search(data, at)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    _check_work(scans, image, limits, shown)


def _gif_frames(data: bytes, limit: int, shown: str) -> int:
    """Frames of a GIF, counted to `limit` + 1, without decoding; Pillow's own count has no bound.

    Bytes that start no block are an error: decoders disagree whether the picture ends there.
    """
    at, count = 13 + _gif_table(data[10]), 0
    while at < len(data) and data[at] != 0x3B and count <= limit:
        if data[at] == 0x21:
            at += 2
        elif data[at] == 0x2C:
            at += 11 + _gif_table(data[at + 9])
            count += 1
        else:
            raise ImageError(f"{shown}: damaged, unknown bytes between GIF blocks; save it again")
        while at < len(data) and data[at]:
            at += data[at] + 1
        at += 1
    return count


def _gif_table(flags: int) -> int:
    """Bytes of the colour table that a GIF's flag byte announces."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _views(
    image: Image.Image, limits: ImageLimits, frames: FrameChoice, shown: str
) -> Iterator[View]:
    count = 1 if frames == "first" else _count_frames(image, limits, shown)
    if frames == "all" and count > limits.max_frames:
        raise LimitError(
            f"{shown}: {count} frames are above the limit of {limits.max_frames}; "
            "raise max_frames, or use sampled frames"
        )
    chosen = _spread(count, count if frames == "all" else limits.sampled_frames)
    for index in chosen:
        if count > 1 or image.tell():
            image.seek(index)
        # A frame may be larger than the first one, which the header announced.
        _check_size(image, limits, shown)
        _check_scans(image, limits, shown)
        image.load()
        _check_size(image, limits, shown)
        label = f"frame {index + 1} of {count}" if count > 1 else "image"
        for way, rgb in _ways_to_see(image, shown):
            yield View(rgb, f"{label}, {way}" if way else label, index)


def _count_frames(image: Image.Image, limits: ImageLimits, shown: str) -> int:
    if image.format == "TIFF":
        # Pages are counted by walking, as `n_frames` does, but with an end.
        count = 0
        with contextlib.suppress(EOFError):
            while count <= limits.max_animation_frames:
                image.seek(count)
                count += 1
        image.seek(0)
        _check_length(count, limits, shown)
        return count
    count = int(getattr(image, "n_frames", 1))
    _check_length(count, limits, shown)
    if count > 1:
        _check_work(count, image, limits, shown)
    return count


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` frame indices of `count`, evenly spread, the first and the last included."""
    if count <= wanted:
        return list(range(count))
    if wanted < 2:
        return [0]
    return [i * (count - 1) // (wanted - 1) for i in range(wanted)]


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _ways_to_see(image: Image.Image, shown: str) -> Iterator[tuple[str, Image.Image]]:
    """Upright RGB pictures of the loaded frame, each with what was done to it ("" for nothing)."""
    turn = _UPRIGHT.get(_orientation(image))
    for way, rgb in _flatten(image, shown):
        yield way, rgb.transpose(turn) if turn is not None else rgb


def _orientation(image: Image.Image) -> int:
    # Damaged EXIF says nothing about the pixels, and it is met in honest photographs.
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001
        return 1


def _flatten(image: Image.Image, shown: str) -> Iterator[tuple[str, Image.Image]]:
    if image.mode.startswith("I;16"):
        yield from _flatten_16_bits(image)
    elif image.mode in ("I", "F", "LAB"):
        raise ImageError(
            f"{shown}: mode {image.mode} has no defined brightness; convert it to 8-bit RGB"
        )
    elif image.has_transparency_data:
        yield from _flatten_alpha(image.convert("RGBA"))
    else:
        yield "", image.convert("RGB")


def _flatten_16_bits(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    values = np.asarray(image).astype(np.uint32)
    scaled = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int) and (values == clear).any():
        alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
        yield from _flatten_alpha(Image.merge("RGBA", (scaled, scaled, scaled, alpha)))
    else:
        yield "", scaled.convert("RGB")
    clipped = np.minimum(values, 255).astype(np.uint8)
    if clipped.min() != clipped.max():
        yield "clipped to 8 bits", Image.fromarray(clipped).convert("RGB")


def _flatten_alpha(rgba: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    alpha = np.asarray(rgba.getchannel("A"))
    if alpha.min() == 255:
        yield "", rgba.convert("RGB")
        return
    for ground in ("black", "white"):
        backdrop = Image.new("RGBA", rgba.size, ground)
        yield f"on {ground}", Image.alpha_composite(backdrop, rgba).convert("RGB")
    bare = rgba.convert("RGB")
    under = np.asarray(bare)[alpha < 255]
    if (under != under[0]).any():
        yield "alpha ignored", bare
