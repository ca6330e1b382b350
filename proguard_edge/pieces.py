"""Requests that do not fit one look: cut into pieces, of which the worst decides.

A long text becomes overlapping windows, a picture becomes its views, several pictures are looked
at one by one. Every window and every view is in at least one piece; nothing is ever cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proguard_edge.image import ImageProcessor, Patches, View, load_image
from proguard_edge.prompt import PromptEncoder
from proguard_edge.request import Request

if TYPE_CHECKING:
    from proguard_edge.request import ImageSource


@dataclass(frozen=True)
class Piece:
    """What one prompt holds."""

    user: str | None
    response: str | None
    image: Patches | None


def views_of(
    images: Iterable[ImageSource], processor: ImageProcessor, see: Callable[[View], object]
) -> Iterator[Patches]:
    """Patches of every view of every image, made when they are asked for: each may be large.

    `see` gets each view before the model does. Raises ImageError, LimitError.
    """
    for image in images:
        for view in load_image(image):
            see(view)
            yield processor(view.image)


def split_request(
    request: Request,
    views: Iterator[Patches],
    encoder: PromptEncoder,
    window: int,
    overlap: int,
) -> Iterator[Piece]:
    """Pieces of a request; a text has at most `window` tokens in each. Raises InputError.

    `views`: every way to see each of the request's images, see `views_of`. The first window of one
    part stands beside every window of the other, so that a response is read with the beginning of
    what it answers.
    """
    users: list[str | None] = [*_windows(request.user, encoder, window, overlap)] or [None]
    responses: list[str | None] = [*_windows(request.response, encoder, window, overlap)] or [None]
    if request.response is not None and responses == [None]:
        responses = [""]
    first = next(views, None)
    yield Piece(users[0], responses[0], first)
    for view in views:
        yield Piece(users[0], responses[0], view)
    for user in users[1:]:
        yield Piece(user, responses[0], first)
    for response in responses[1:]:
        yield Piece(users[0], response, first)


def _windows(text: str | None, encoder: PromptEncoder, window: int, overlap: int) -> list[str]:
    if text is None or not text.strip():
        return []
    return encoder.windows(text, window, overlap)
