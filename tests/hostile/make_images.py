"""Write a corpus of hostile and odd image files: `hostile_images(folder)`.

Every file must end in a verdict or in one of the errors of `proguard_edge.errors`. The names say
what is wrong; those that start with "ok-" are unusual but whole, and must be decoded.
Run by hand: `python tests/hostile/make_images.py FOLDER` prints the names.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def hostile_images(folder: str | Path) -> list[tuple[str, Path]]:
    """Write the corpus into `folder` and return (name, path), the same bytes on every call."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, data in _corpus():
        path = folder / name
        path.write_bytes(data)
        written.append((name, path))
    return written


def _corpus() -> Iterator[tuple[str, bytes]]:
    whole = whole_images()
    yield from _truncated(whole)
    yield from _flipped(whole)
    yield from _not_images(whole)
    yield from _bombs()
    yield from _broken_headers()
    yield from _broken_animations()
    yield from _odd_but_whole(whole)


def picture(width: int = 64, height: int = 48, text: str = "HELLO") -> Image.Image:
    """RGB gradient with noise and a word on it."""
    y, x = np.indices((height, width))
    grain = np.random.default_rng(7).integers(0, 40, (height, width))
    planes = [x * 200 // width + grain, y * 200 // height + grain, (x + y) % 256]
    image = Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))
    ImageDraw.Draw(image).text((4, 4), text, fill="white")
    return image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def frames(count: int, width: int = 40, height: int = 32) -> list[Image.Image]:
    """RGB frames that all differ, the brightness of frame i being a function of i."""
    made = []
    for i in range(count):
        frame = Image.new("RGB", (width, height), (i * 255 // max(count - 1, 1), 80, 20))
        ImageDraw.Draw(frame).text((4, 4), str(i), fill="white")
        made.append(frame)
    return made


def animation(kind: str, count: int, **options: object) -> bytes:
    first, *others = frames(count)
    timing = {} if kind == "TIFF" else {"duration": 50, "loop": 0}
    return encode(first, kind, save_all=True, append_images=others, **timing, **options)


def whole_images() -> dict[str, bytes]:
    """One small valid file a flavour of each accepted format, by extension-like name."""
    image = picture()
    return {
        "jpg": encode(image, "JPEG"),
        "progressive.jpg": encode(image, "JPEG", progressive=True),
        "png": encode(image, "PNG"),
        "palette.png": encode(image.quantize(32), "PNG"),
        "webp": encode(image, "WEBP"),
        "lossless.webp": encode(image, "WEBP", lossless=True),
        "gif": encode(image.quantize(64), "GIF"),
        "bmp": encode(image, "BMP"),
        "tiff": encode(image, "TIFF"),
        "lzw.tiff": encode(image, "TIFF", compression="tiff_lzw"),
    }


def _truncated(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for kind, data in whole.items():
        for percent in (1, 30, 70, 95):
            yield f"truncated-{percent:02d}.{kind}", data[: max(1, len(data) * percent // 100)]


def _flipped(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for kind, data in whole.items():
        damaged = bytearray(data)
        for at in np.random.default_rng(len(data)).integers(8, len(data), 12):
            damaged[at] ^= 0xFF
        yield f"flipped.{kind}", bytes(damaged)


def _not_images(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    yield "empty.png", b""
    yield "one-byte.jpg", b"\xff"
    yield "zeros.bmp", bytes(4096)
    yield "noise.webp", np.random.default_rng(1).bytes(4096)
    yield "page.png", b"<!doctype html><script>alert(1)</script>"
    yield "text.jpg", "no picture here\n".encode("utf-16")
    yield "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><text>hi</text></svg>'
    yield "entity.svg", b'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>'
    yield "photo.heic", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)
    yield "photo.avif", b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1avif" + bytes(64)
    yield "icon.ico", encode(picture(32, 32), "ICO")
    yield "paper.pdf", b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
    yield "script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%id) run\n"
    yield "ppm-inside.png", encode(picture(), "PPM")
    yield "jpeg2000.jp2", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(64)
    yield "archive.gif", b"PK\x03\x04" + bytes(60)
    yield "only-signature.png", whole["png"][:8]
    yield "only-riff.webp", b"RIFF\xff\xff\xff\x7fWEBP"


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG with the given header and any chunks, whether or not they fit it."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks)


_PNG_END = png_chunk(b"IEND", b"")


def _bombs() -> Iterator[tuple[str, bytes]]:
    tiny = png_chunk(b"IDAT", zlib.compress(bytes(100)))
    yield "bomb-60000x60000.png", png(60000, 60000, tiny, _PNG_END)
    yield "bomb-12000x12000.png", png(12000, 12000, tiny, _PNG_END)
    yield "bomb-long-side.png", png(1, 2**31 - 1, tiny, _PNG_END)
    # The header is modest: 25 million black pixels in about 25 kB.
    rows = zlib.compress(bytes(5001) * 5000, 9)
    yield "ok-zlib-bomb-under-limits.png", png(5000, 5000, png_chunk(b"IDAT", rows), _PNG_END)
    # More pixel data than the header has room for.
    yield (
        "bomb-too-much-data.png",
        png(16, 16, png_chunk(b"IDAT", zlib.compress(bytes(20_000_000), 9)), _PNG_END),
    )
    note = b"note\x00\x00" + zlib.compress(bytes(80_000_000), 9)
    yield "bomb-text-chunk.png", png(16, 16, png_chunk(b"zTXt", note), tiny, _PNG_END)
    yield "bomb-65500x65500.gif", _gif(65500, 65500, [(1, 1)])
    yield "bomb-frame-larger-than-screen.gif", _gif(1, 1, [(60000, 60000)])
    yield "bomb-3000-frames.gif", _gif(1, 1, [(1, 1)] * 3000)
    yield "bomb-frames-times-pixels.gif", _gif(5000, 5000, [(1, 1)] * 60)
    yield "bomb-65535x65535.jpg", _with_jpeg_size(encode(picture(), "JPEG"), 65535, 65535)
    yield "bomb-many-scans.jpg", _many_scans()
    yield "bomb-30000x30000.bmp", _bmp(30000, 30000)
    yield "bomb-16383x16383.webp", _webp_canvas(16383, 16383)
    yield (
        "bomb-40000x40000.tiff",
        _tiff(
            [
                (256, 4, 1, 40000),
                (257, 4, 1, 40000),
                *_TIFF_GRAY[2:],
                (273, 4, 1, 8),
                (279, 4, 1, 64),
            ]
        ),
    )


def _gif(width: int, height: int, sizes: list[tuple[int, int]]) -> bytes:
    """A GIF of black frames; only the first pixel of each is really there."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    blocks = b"".join(
        b"," + struct.pack("<HHHHB", 0, 0, w, h, 0) + b"\x02\x02\x44\x01\x00" for w, h in sizes
    )
    return head + blocks + b";"


def _with_jpeg_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _many_scans() -> bytes:
    """A progressive JPEG of 2000x2000 whose last scan is repeated 1,000 times."""
    data = encode(Image.new("RGB", (2000, 2000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 1000 + data[-2:]


def _bmp(width: int, height: int, bits: int = 24, offset: int = 54, planes: int = 1) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, planes, bits, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 64, 0, 0, offset) + info + bytes(64)


def _webp_canvas(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(tags: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """Little-endian TIFF with one directory of raw (tag, type, count, value) entries."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    ifd = struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return b"II*\x00" + struct.pack("<I", 8) + ifd + bytes(64)


_TIFF_GRAY = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]


def _broken_headers() -> Iterator[tuple[str, bytes]]:
    body = png_chunk(b"IDAT", zlib.compress(bytes(17 * 16)))
    yield "zero-width.png", png(0, 16, body, _PNG_END)
    yield "no-data.png", png(16, 16, _PNG_END)
    yield "depth-7.png", png(16, 16, body, _PNG_END, depth=7)
    yield "palette-missing.png", png(16, 16, body, _PNG_END, colour=3)
    yield "wrong-checksum.png", png(16, 16, body, _PNG_END)[:30] + b"XXXX" + body
    yield "chunk-of-2-gigabytes.png", png(16, 16, b"\x7f\xff\xff\xffIDAT")
    yield "profile-bomb.png", png(16, 16, png_chunk(b"iCCP", b"x\x00\x00garbage"), body, _PNG_END)
    yield "zero-size.bmp", _bmp(0, 0)
    yield "negative-size.bmp", _bmp(-5, -(2**31))
    yield "bits-5.bmp", _bmp(8, 8, bits=5)
    yield "offset-beyond-end.bmp", _bmp(4, 4, offset=2**31)
    yield "no-tags.tiff", _tiff([])
    yield "count-absurd.tiff", _tiff([*_TIFF_GRAY, (273, 4, 2**32 - 1, 8), (279, 4, 1, 64)])
    yield "offset-absurd.tiff", _tiff([*_TIFF_GRAY, (273, 4, 1, 2**32 - 2), (279, 4, 1, 64)])
    yield "type-absurd.tiff", _tiff([(256, 99, 1, 8), (257, 0, 7, 8)])
    yield "compression-absurd.tiff", _tiff([(256, 4, 1, 8), (257, 4, 1, 8), (259, 3, 1, 54321)])
    yield (
        "directory-points-to-itself.tiff",
        _tiff([*_TIFF_GRAY, (273, 4, 1, 100), (279, 4, 1, 64)], following=8),
    )
    yield "float-pixels.tiff", encode(Image.new("F", (16, 16), 0.5), "TIFF")
    yield "lab-pixels.tiff", encode(Image.new("LAB", (16, 16)), "TIFF")
    yield "segment-of-length-0.jpg", b"\xff\xd8\xff\xe0\x00\x00" + bytes(64) + b"\xff\xd9"
    yield "no-scan.jpg", encode(picture(), "JPEG").split(b"\xff\xda")[0] + b"\xff\xd9"
    yield "wrong-tables.jpg", encode(picture(), "JPEG").replace(b"\xff\xc4", b"\xff\xfe")


def _broken_animations() -> Iterator[tuple[str, bytes]]:
    gif = animation("GIF", 6)
    yield "second-frame-cut.gif", gif[: len(gif) // 3]
    yield "junk-between-frames.gif", gif[:-1] + b"\x99" * 20 + b";"
    yield "lzw-code-size-200.gif", _gif(8, 8, [(8, 8)]).replace(b"\x02\x02\x44", b"\xc8\x02\x44")
    yield (
        "frame-without-data.gif",
        _gif(8, 8, [(8, 8), (8, 8)]).replace(b"\x02\x02\x44\x01", b"\x02"),
    )
    apng = animation("PNG", 6)
    at = apng.index(b"acTL") + 4
    lie = struct.pack(">II", 9, 0)
    crc = struct.pack(">I", zlib.crc32(b"acTL" + lie))
    yield "more-frames-declared.apng.png", apng[:at] + lie + crc + apng[at + 12 :]
    header = apng[at - 8 : at + 12]
    yield "two-animation-headers.apng.png", apng[: at - 8] + header * 2 + apng[at + 12 :]
    yield "half.apng.png", apng[: len(apng) // 2]
    webp = animation("WEBP", 6, lossless=True)
    yield "half.animated.webp", webp[: len(webp) // 2]
    yield "half.pages.tiff", animation("TIFF", 6)[:5000]


def _odd_but_whole(whole: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    image = picture()
    yield "ok-jpeg-named.png", whole["jpg"]
    yield "ok-png-named.gif", whole["png"]
    yield "ok-1x1.png", encode(Image.new("RGB", (1, 1)), "PNG")
    yield "ok-sixteen-bit.png", encode(sixteen_bits(), "PNG")
    yield "ok-sixteen-bit-low-values.png", encode(hidden_in_low_values(), "PNG")
    yield "ok-sixteen-bit.tiff", encode(sixteen_bits(), "TIFF")
    yield "ok-cmyk.jpg", encode(image.convert("CMYK"), "JPEG")
    yield "ok-cmyk.tiff", encode(image.convert("CMYK"), "TIFF")
    yield "ok-gray-alpha.png", encode(image.convert("LA"), "PNG")
    yield "ok-one-bit.png", encode(image.convert("1"), "PNG")
    yield "ok-one-bit.tiff", encode(image.convert("1"), "TIFF", compression="group4")
    yield "ok-palette-transparent.png", encode(image.quantize(8), "PNG", transparency=3)
    yield "ok-colour-key.png", encode(image, "PNG", transparency=(0, 0, 0))
    yield "ok-text-in-alpha.png", encode(text_in_alpha(), "PNG")
    yield "ok-text-in-alpha.webp", encode(text_in_alpha(), "WEBP", lossless=True)
    yield "ok-text-under-alpha.png", encode(text_under_alpha(), "PNG")
    yield "ok-animated.gif", animation("GIF", 9)
    yield "ok-animated.webp", animation("WEBP", 9, lossless=True)
    yield "ok-animated.apng.png", animation("PNG", 9)
    yield "ok-pages.tiff", animation("TIFF", 9)
    for orientation in (3, 6, 8):
        yield f"ok-rotated-{orientation}.jpg", encode(image, "JPEG", exif=turned(orientation))
    yield "ok-two-pictures.mpo.jpg", encode(image, "MPO", save_all=True, append_images=frames(1))
    yield "ok-archive-behind.png", whole["png"] + b"PK\x03\x04" + bytes(100)
    yield "ok-exif-garbage.jpg", encode(image, "JPEG", exif=b"Exif\x00\x00garbage" * 3)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def sixteen_bits() -> Image.Image:
    """A horizontal ramp over the full 16-bit range."""
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (48, 1))
    return Image.fromarray(ramp)


def hidden_in_low_values() -> Image.Image:
    """A word drawn with 200 of 65535: black, unless a reader clips at 255."""
    return Image.fromarray(np.asarray(_word()).astype(np.uint16) // 255 * 200)


def text_in_alpha() -> Image.Image:
    """A white word on transparency: on a white page there is nothing to see."""
    white = Image.new("L", (64, 48), 255)
    return Image.merge("RGBA", (white, white, white, _word()))


def text_under_alpha() -> Image.Image:
    """A word in colours that alpha hides completely: seen by code that drops alpha."""
    word = _word()
    return Image.merge("RGBA", (word, word, word, Image.new("L", word.size, 0)))


def _word() -> Image.Image:
    word = Image.new("L", (64, 48), 0)
    ImageDraw.Draw(word).text((4, 4), "SECRET", fill=255)
    return word.point(lambda value: 255 if value > 127 else 0)


if __name__ == "__main__":
    for name, path in hostile_images(sys.argv[1]):
        print(f"{path.stat().st_size:>9} {name}")
