import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageFile

from proguard_edge.errors import ImageError, LimitError
from proguard_edge.image.load import ImageLimits, View, load_image


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 20, height: int = 12, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels)
    return np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)


def pixels(view: View) -> np.ndarray:
    assert view.image.mode == "RGB"
    return np.asarray(view.image)


def labels(views: list[View]) -> list[str]:
    return [view.label for view in views]


def grays(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (8, 6), (20 * i, 20 * i, 20 * i)) for i in range(count)]


def animated(kind: str, count: int) -> bytes:
    first, *others = grays(count)
    options = {} if kind == "TIFF" else {"duration": 40}
    if kind == "WEBP":
        options["lossless"] = True
    return encode(first, kind, save_all=True, append_images=others, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})],
)
def test_a_lossless_image_is_one_view_of_exactly_its_pixels(kind, options):
    values = noise()
    views = load_image(encode(Image.fromarray(values), kind, **options))
    assert labels(views) == ["image"]
    np.testing.assert_array_equal(pixels(views[0]), values)


def test_a_jpeg_is_decoded_in_full_size_and_as_pillow_decodes_it():
    data = encode(Image.fromarray(noise(640, 480)), "JPEG", quality=90)
    (view,) = load_image(data)
    np.testing.assert_array_equal(pixels(view), np.asarray(Image.open(io.BytesIO(data))))


def test_bytes_a_path_its_text_and_a_pil_image_give_the_same_view(tmp_path):
    path = tmp_path / "a.png"
    data = encode(Image.fromarray(noise()), "PNG")
    path.write_bytes(data)
    with Image.open(path) as opened:
        sources = [data, path, str(path), opened, Image.fromarray(noise())]
        for source in sources:
            (view,) = load_image(source)
            np.testing.assert_array_equal(pixels(view), noise())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(kind, orientation):
    # The top left quarter of the stored picture is white; where the standard moves it, as
    # (right, lower) of the shown picture.
    corner = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0), (1, 0), (1, 1), (0, 1)][orientation - 1]
    image = Image.new("RGB", (64, 32))
    image.paste("white", (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    (view,) = load_image(encode(image, kind, exif=exif))
    shown = pixels(view)
    assert view.image.size == ((64, 32) if orientation < 5 else (32, 64))
    height, width = shown.shape[:2]
    quarters = {
        (x, y): shown[height * (2 * y + 1) // 4, width * (2 * x + 1) // 4].mean()
        for x in (0, 1)
        for y in (0, 1)
    }
    assert max(quarters, key=quarters.get) == corner


def test_exif_that_cannot_be_read_counts_as_upright():
    data = encode(Image.fromarray(noise()), "PNG", exif=b"Exif\x00\x00garbage, not a directory")
    (view,) = load_image(data)
    np.testing.assert_array_equal(pixels(view), noise())


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "PNG"), ("P", "PNG"), ("P", "GIF"), ("1", "PNG"), ("1", "TIFF"), ("CMYK", "TIFF")],
)
def test_other_modes_are_shown_in_rgb(mode, kind):
    image = Image.fromarray(noise()).convert(mode)
    (view,) = load_image(encode(image, kind))
    np.testing.assert_array_equal(pixels(view), np.asarray(image.convert("RGB")))


def test_alpha_is_shown_on_black_and_on_white():
    values = np.zeros((2, 3, 4), dtype=np.uint8)
    values[..., :3] = (200, 100, 50)
    values[0, 0, 3], values[0, 1, 3], values[0, 2, 3] = 0, 128, 255
    values[1, :, 3] = 255
    views = load_image(encode(Image.fromarray(values), "PNG"))
    assert labels(views) == ["image, on black", "image, on white"]
    black, white = (pixels(view).astype(int) for view in views)
    assert black[0, 0].tolist() == [0, 0, 0]
    assert white[0, 0].tolist() == [255, 255, 255]
    assert black[1, 2].tolist() == white[1, 2].tolist() == [200, 100, 50]
    # 128/255 of the colour over the ground, by hand; rounding may differ by one.
    np.testing.assert_allclose(black[0, 1], [100.4, 50.2, 25.1], atol=1)
    np.testing.assert_allclose(white[0, 1], [227.4, 177.2, 152.1], atol=1)


def test_white_text_in_alpha_that_a_white_page_hides_is_seen_on_black():
    word = Image.new("L", (20, 12))
    word.paste(255, (4, 4, 12, 8))
    plain = Image.new("L", word.size, 255)
    hidden = Image.merge("RGBA", (plain, plain, plain, word))
    black, white = load_image(encode(hidden, "PNG"))
    assert np.ptp(pixels(white)) == 0
    np.testing.assert_array_equal(pixels(black)[..., 0], np.asarray(word))


def test_colours_that_alpha_hides_are_a_view_of_their_own():
    values = noise(channels=4)
    values[..., 3] = 0
    views = load_image(encode(Image.fromarray(values), "PNG"))
    assert labels(views) == ["image, on black", "image, on white", "image, alpha ignored"]
    np.testing.assert_array_equal(pixels(views[2]), values[..., :3])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_that_is_opaque_everywhere_is_one_view(mode):
    image = Image.fromarray(noise()).convert(mode)
    views = load_image(encode(image, "PNG"))
    assert labels(views) == ["image"]
    np.testing.assert_array_equal(pixels(views[0]), np.asarray(image.convert("RGB")))


def test_one_almost_opaque_pixel_is_enough_for_two_views():
    values = np.full((4, 4, 4), 255, dtype=np.uint8)
    values[2, 2, 3] = 254
    black, white = load_image(encode(Image.fromarray(values), "PNG"))
    assert pixels(black)[2, 2].tolist() == [254, 254, 254]
    assert pixels(white)[2, 2].tolist() == [255, 255, 255]


def transparent_png(mode: str) -> bytes:
    """The left half is transparent by a `tRNS` chunk."""
    image = Image.new(mode, (4, 2), 1)
    image.paste(2, (2, 0, 4, 2)) if mode != "RGB" else image.paste((9, 9, 9), (2, 0, 4, 2))
    if mode == "P":
        image.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
        return encode(image, "PNG", transparency=bytes([255, 0, 255]))
    if mode == "RGB":
        image.paste((1, 1, 1), (0, 0, 2, 2))
        return encode(image, "PNG", transparency=(1, 1, 1))
    return encode(image, "PNG", transparency=1)


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "I;16"])
def test_transparency_by_colour_key_or_palette_counts_as_alpha(mode):
    views = load_image(transparent_png(mode))
    assert labels(views)[:2] == ["image, on black", "image, on white"]
    black, white = pixels(views[0]), pixels(views[1])
    assert black[:, :2].max() == 0
    assert white[:, :2].min() == 255
    np.testing.assert_array_equal(black[:, 2:], white[:, 2:])


def test_transparency_of_a_one_bit_picture_counts_as_alpha():
    image = Image.new("1", (4, 2), 1)
    image.paste(0, (0, 0, 2, 2))
    black, white = load_image(encode(image, "PNG", transparency=0))
    assert pixels(black)[0, 0].tolist() == [0, 0, 0]
    assert pixels(white)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind):
    values = np.array([[0, 257, 32768, 65535, 128, 129]], dtype=np.uint16)
    views = load_image(encode(Image.fromarray(values), kind))
    # value / 257, rounded to the nearest
    assert pixels(views[0])[0, :, 0].tolist() == [0, 1, 128, 255, 0, 1]


def test_a_big_endian_sixteen_bit_picture_is_scaled_too():
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 256, 65535))
    assert pixels(load_image(image)[0])[0, :, 0].tolist() == [1, 255]


def test_a_picture_in_the_low_values_of_sixteen_bits_is_seen_clipped():
    values = np.zeros((12, 20), dtype=np.uint16)
    values[4:8, 4:12] = 120
    plain, clipped = load_image(encode(Image.fromarray(values), "PNG"))
    assert pixels(plain).max() == 0
    assert clipped.label == "image, clipped to 8 bits"
    np.testing.assert_array_equal(pixels(clipped)[..., 0], values)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_a_mode_without_defined_brightness_is_refused(mode):
    with pytest.raises(ImageError, match="convert it to 8-bit RGB"):
        load_image(Image.new(mode, (8, 8)))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_sampled_with_its_first_and_last_frame(kind):
    views = load_image(animated(kind, 10))
    assert [view.frame for view in views] == [0, 3, 6, 9]
    assert views[1].label == "frame 4 of 10"
    assert [pixels(view)[0, 0, 0] for view in views] == [0, 60, 120, 180]


@pytest.mark.parametrize(("count", "chosen"), [(2, [0, 1]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 4])])
def test_a_short_animation_is_sampled_without_repeats(count, chosen):
    assert [view.frame for view in load_image(animated("GIF", count))] == chosen


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_all_frames_and_the_first_frame_can_be_asked_for(kind):
    data = animated(kind, 7)
    views = load_image(data, frames="all")
    assert [pixels(view)[0, 0, 0] for view in views] == [20 * i for i in range(7)]
    (first,) = load_image(data, frames="first")
    assert first.label == "image"
    assert pixels(first).max() == 0


def test_more_frames_than_the_limit_are_an_error_for_all_and_sampled_otherwise():
    limits = ImageLimits(max_frames=6)
    with pytest.raises(LimitError, match="7 frames"):
        load_image(animated("GIF", 7), limits=limits, frames="all")
    assert len(load_image(animated("GIF", 7), limits=limits)) == 4


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_longer_than_the_limit_is_refused(kind):
    with pytest.raises(LimitError, match="more than 5 frames"):
        load_image(animated(kind, 7), limits=ImageLimits(max_animation_frames=5))


def test_the_frames_of_a_long_gif_are_not_walked_through_to_be_counted(monkeypatch):
    def count(_):
        raise AssertionError("walked")

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "n_frames", property(count))
    with pytest.raises(LimitError, match="more than 5 frames"):
        load_image(animated("GIF", 7), limits=ImageLimits(max_animation_frames=5))


def test_an_animation_with_more_pixels_to_decode_than_the_limit_is_refused():
    work = 7 * 8 * 6
    data = animated("GIF", 7)
    assert len(load_image(data, limits=ImageLimits(max_work_pixels=work))) == 4
    with pytest.raises(LimitError, match="decoded pixels"):
        load_image(data, limits=ImageLimits(max_work_pixels=work - 1))


def test_the_scans_of_a_progressive_jpeg_count_as_work():
    data = encode(Image.new("RGB", (100, 100)), "JPEG", progressive=True)
    scans = data.count(b"\xff\xda")
    assert scans > 1
    limit = 100 * 100 * scans
    assert len(load_image(data, limits=ImageLimits(max_work_pixels=limit))) == 1
    with pytest.raises(LimitError, match=f"{scans} frames or scans"):
        load_image(data, limits=ImageLimits(max_work_pixels=limit - 1))


def test_the_scans_of_a_second_picture_count_too():
    first = Image.new("RGB", (100, 100))
    second = encode(Image.new("RGB", (100, 100)), "JPEG", progressive=True)
    scans = second.count(b"\xff\xda")
    with Image.open(io.BytesIO(second)) as progressive:
        data = encode(first, "MPO", save_all=True, append_images=[progressive], progressive=True)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    second_at = data.rindex(b"\xff\xd8\xff")
    last = data.rindex(b"\xff\xda")
    assert second_at < last
    heavy = data[:last] + data[last:-2] * 30 + data[-2:]
    limits = ImageLimits(max_work_pixels=100 * 100 * (scans + 10))
    assert len(load_image(data, limits=limits)) == 2
    with pytest.raises(LimitError, match="scans"):
        load_image(heavy, limits=limits)


def test_a_transparent_animation_gives_every_sampled_frame_on_both_grounds():
    drawn = []
    for i in range(3):
        frame = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
        frame.paste((255, 0, 0, 255), (i, 0, i + 2, 2))
        drawn.append(frame)
    data = encode(drawn[0], "PNG", save_all=True, append_images=drawn[1:], disposal=1)
    views = load_image(data, frames="all")
    for index in range(3):
        mine = [view.label for view in views if view.frame == index]
        assert mine[:2] == [
            f"frame {index + 1} of 3, on black",
            f"frame {index + 1} of 3, on white",
        ]


def test_the_frames_of_a_callers_image_are_looked_at_and_its_place_is_kept():
    with Image.open(io.BytesIO(animated("GIF", 10))) as image:
        image.seek(2)
        assert [view.frame for view in load_image(image)] == [0, 3, 6, 9]
        assert image.tell() == 2


def test_pixels_are_checked_before_they_are_decoded(monkeypatch):
    data = encode(Image.new("RGB", (100, 100)), "PNG")

    def decode(_):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with pytest.raises(LimitError, match="100x100"):
        load_image(data, limits=ImageLimits(max_pixels=9_999))


@pytest.mark.parametrize("limits", [ImageLimits(max_pixels=9_999), ImageLimits(max_side=99)])
def test_a_callers_image_is_held_to_the_limits(limits):
    image = Image.new("RGB", (100, 100))
    assert len(load_image(image, limits=ImageLimits(max_pixels=10_000, max_side=100))) == 1
    with pytest.raises(LimitError):
        load_image(image, limits=limits)


def test_a_gif_frame_larger_than_its_screen_is_held_to_the_limits():
    def gif(width, height):
        return (
            b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
            + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"
        )  # fmt: skip

    with pytest.raises(LimitError):
        load_image(gif(9_000, 9_000))
    assert len(load_image(gif(1, 1))) == 1


@pytest.mark.parametrize("side", [9_600, 60_000])
def test_what_pillow_calls_a_bomb_is_a_limit_error(side):
    # Above 89 million pixels Pillow warns, above twice that it raises.
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    data += struct.pack(">I", 2) + b"IDAT" + b"x\x9c"
    with pytest.raises(LimitError):
        load_image(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(LimitError):
            load_image(data)


def test_bytes_above_the_limit_are_refused_and_at_the_limit_accepted(tmp_path):
    data = encode(Image.fromarray(noise()), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (data, path):
        assert len(load_image(source, limits=ImageLimits(max_bytes=len(data)))) == 1
        with pytest.raises(LimitError, match="bytes"):
            load_image(source, limits=ImageLimits(max_bytes=len(data) - 1))


@pytest.mark.parametrize(
    "data",
    [
        b"<html>",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x00\x00\x00\x18ftypheic" + bytes(64),
        encode(Image.new("RGB", (8, 8)), "PPM"),
        encode(Image.new("RGB", (16, 16)), "ICO"),
        encode(Image.new("RGB", (8, 8)), "TGA"),
    ],
)
def test_another_format_is_refused_with_the_list_of_accepted_ones(data):
    with pytest.raises(ImageError, match="JPEG, PNG, WebP, GIF, BMP or TIFF"):
        load_image(data)


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    (tmp_path / "nothing.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"^nothing\.png: empty"):
        load_image(tmp_path / "nothing.png")


def test_a_missing_file_a_folder_and_a_pipe_are_image_errors(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "gone.png", tmp_path, tmp_path / "pipe.png", "a\x00b.png", "\ud800"):
        with pytest.raises(ImageError):
            load_image(path)


def test_a_file_that_may_not_be_read_is_an_image_error(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "secret.png").write_bytes(encode(Image.fromarray(noise()), "PNG"))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"^secret\.png: cannot be read \(Permission denied\)"):
        load_image(tmp_path / "secret.png")


def test_something_that_is_no_source_is_an_image_error():
    with pytest.raises(ImageError, match="not int"):
        load_image(7)


def test_an_error_is_one_line_that_starts_with_the_name(tmp_path):
    path = tmp_path / "bad\nname\x1b[31m.png"
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith("bad?name?[31m.png: ")
    with pytest.raises(ImageError, match=r"^upload 3: "):
        load_image(b"nothing", name="upload 3")
    assert caught.value.__suppress_context__


def test_a_truncated_image_is_refused_even_where_pillow_was_told_to_accept_it(monkeypatch):
    data = encode(Image.fromarray(noise(64, 64)), "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(ImageError, match="LOAD_TRUNCATED_IMAGES"):
        load_image(data[:-200])


@pytest.mark.parametrize(
    "error",
    [SyntaxError, KeyError, struct.error, zlib.error, MemoryError, AttributeError, RecursionError],
)
def test_whatever_a_decoder_raises_is_an_image_error(monkeypatch, error):
    data = encode(Image.fromarray(noise()), "PNG")

    def decode(_):
        raise error("inner")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with pytest.raises(ImageError, match="inner"):
        load_image(data)


def test_a_decoder_that_is_interrupted_by_the_user_is_not_swallowed(monkeypatch):
    def decode(_):
        raise KeyboardInterrupt

    data = encode(Image.fromarray(noise()), "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with pytest.raises(KeyboardInterrupt):
        load_image(data)


def test_an_animation_header_that_pillow_drops_is_an_error():
    data = animated("PNG", 3)
    at = data.index(b"acTL") - 4
    doubled = data[:at] + data[at : at + 20] * 2 + data[at + 20 :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match="animation header"):
            load_image(doubled)


def test_loading_twice_gives_the_same_views(tmp_path):
    path = Path(tmp_path / "a.gif")
    path.write_bytes(animated("GIF", 9))
    first, second = load_image(path), load_image(path)
    assert labels(first) == labels(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(pixels(one), pixels(other))
