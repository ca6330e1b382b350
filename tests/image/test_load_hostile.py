"""Fuzzed and hostile files: every one ends in views or in a listed error."""

import importlib.util
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from proguard_edge.errors import ImageError, InputError, LimitError
from proguard_edge.image.load import View, load_image

_PATH = Path(__file__).parent.parent / "hostile" / "make_images.py"
_SPEC = importlib.util.spec_from_file_location("make_images", _PATH)
make_images = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_images)

WHOLE = make_images.whole_images()
FLAVOURS = WHOLE | {
    "animated.gif": make_images.animation("GIF", 3),
    "animated.webp": make_images.animation("WEBP", 3, lossless=True),
    "animated.png": make_images.animation("PNG", 3),
    "pages.tiff": make_images.animation("TIFF", 3),
    "alpha.png": make_images.encode(make_images.text_in_alpha(), "PNG"),
    "sixteen.png": make_images.encode(make_images.sixteen_bits(), "PNG"),
    "turned.jpg": make_images.encode(
        make_images.picture(), "JPEG", exif=make_images.turned(6)
    ),
}  # fmt: skip


def ending(source: bytes | Path) -> list[View] | InputError:
    """What came of it; an exception that is not listed goes through and fails the test."""
    try:
        return load_image(source)
    except InputError as error:
        return error


def views_or_none(data: bytes) -> list[View] | None:
    """The views after a look at their form, or None for a listed error."""
    ended = ending(data)
    if isinstance(ended, InputError):
        assert str(ended).isprintable()
        return None
    assert ended
    assert all(view.image.mode == "RGB" and view.image.width > 0 for view in ended)
    return ended


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=400), head=st.sampled_from(sorted(FLAVOURS)), keep=st.integers(0, 60)
)
def test_random_bytes_behind_a_real_header_end_in_a_listed_error_or_in_views(data, head, keep):
    views_or_none(FLAVOURS[head][:keep] + data)


@pytest.mark.parametrize("flavour", sorted(FLAVOURS))
@settings(derandomize=True, max_examples=40, deadline=None)
@given(data=st.data())
def test_changed_bytes_end_in_a_listed_error_or_in_views(flavour, data):
    damaged = bytearray(FLAVOURS[flavour])
    # Half of the changes fall into the first 120 bytes: headers are where parsers go wrong.
    end = data.draw(st.sampled_from([min(120, len(damaged)), len(damaged)]))
    places = data.draw(st.lists(st.integers(0, end - 1), min_size=1, max_size=6))
    for at in places:
        damaged[at] = data.draw(st.integers(0, 255))
    views_or_none(bytes(damaged))


@pytest.mark.parametrize("flavour", sorted(WHOLE))
def test_a_file_cut_anywhere_is_refused_or_has_lost_no_pixel(flavour):
    whole = WHOLE[flavour]
    expected = np.asarray(load_image(whole)[0].image)
    refused = 0
    for length in range(0, len(whole), max(1, len(whole) // 120)):
        views = views_or_none(whole[:length])
        if views is None:
            refused += 1
        else:
            np.testing.assert_array_equal(np.asarray(views[0].image), expected)
    # Only an end mark or trailing data may be dispensable.
    assert refused >= 110


@pytest.mark.parametrize("flavour", ["animated.gif", "animated.webp", "animated.png", "pages.tiff"])
def test_an_animation_cut_anywhere_is_refused_or_shows_only_frames_of_the_whole(flavour):
    whole = FLAVOURS[flavour]
    expected = [np.asarray(view.image) for view in load_image(whole, frames="all")]
    for length in range(0, len(whole), max(1, len(whole) // 120)):
        for view in views_or_none(whole[:length]) or []:
            np.testing.assert_array_equal(np.asarray(view.image), expected[view.frame])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_images.hostile_images(tmp_path_factory.mktemp("hostile"))


def test_the_corpus_is_large_and_the_same_every_time(corpus, tmp_path):
    again = make_images.hostile_images(tmp_path)
    assert len({name for name, _ in corpus}) == len(corpus) >= 60
    assert [name for name, _ in corpus] == [name for name, _ in again]
    assert all(
        a.read_bytes() == b.read_bytes() for (_, a), (_, b) in zip(corpus, again, strict=True)
    )


# Pillow itself bounds text chunks, and stops reading pixel data when the picture is full.
NO_LIMIT_ERROR = {"bomb-text-chunk.png": ImageError, "bomb-too-much-data.png": list}


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_every_file_of_the_corpus_ends_as_its_name_says(corpus, action):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        for name, path in corpus:
            ended = ending(path)
            assert isinstance(ended, list) or str(ended).startswith(name)
            if name.startswith("ok-"):
                assert isinstance(ended, list), name
            elif name.startswith("truncated-"):
                assert isinstance(ended, ImageError), name
            elif name.startswith("bomb-"):
                assert isinstance(ended, NO_LIMIT_ERROR.get(name, LimitError)), name
            else:
                assert isinstance(ended, list | ImageError | LimitError), name


def test_nothing_but_accepted_formats_is_ever_tried():
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    with pytest.raises(ImageError, match="convert it"):
        load_image(eps)
