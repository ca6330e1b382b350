"""Request: what is to be moderated, and how much of it is accepted."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proguard_edge.errors import InputError, LimitError

if TYPE_CHECKING:
    from PIL import Image

    from proguard_edge.template import Modality

    ImageSource = str | Path | bytes | Image.Image

MAX_TEXT_CHARS = 100_000
MAX_IMAGES = 16


@dataclass(frozen=True)
class Request:
    """A user turn (text, images, or both) and, where the agent has answered, its response.

    `images`: paths, encoded bytes, or PIL images. Raises InputError when a field is of another
    type, LimitError when a text is longer than `MAX_TEXT_CHARS` characters.
    """

    user: str | None = None
    response: str | None = None
    images: tuple[ImageSource, ...] = ()

    def __post_init__(self) -> None:
        for name, text in (("user", self.user), ("response", self.response)):
            if text is not None and not isinstance(text, str):
                raise InputError(f"{name} must be a text, not {type(text).__name__}")
            if text is not None and len(text) > MAX_TEXT_CHARS:
                raise LimitError(
                    f"{name}: {len(text)} characters, the limit is {MAX_TEXT_CHARS}; "
                    "send it in parts"
                )
        if not isinstance(self.images, tuple):
            raise InputError(f"images must be a tuple, not {type(self.images).__name__}")
        if len(self.images) > MAX_IMAGES:
            raise LimitError(f"{len(self.images)} images, the limit is {MAX_IMAGES}")

    @property
    def modality(self) -> Modality:
        """The kind of conversation: "text", "text-image", or "image" for images alone."""
        if not self.images:
            return "text"
        spoken = self.response is not None or bool(self.user and self.user.strip())
        return "text-image" if spoken else "image"

    @classmethod
    def of(
        cls,
        user: str | None = None,
        image: ImageSource | Iterable[ImageSource] | None = None,
        response: str | None = None,
    ) -> Request:
        """With one image, several, or none. Raises what the constructor raises."""
        from PIL import Image

        if image is None:
            return cls(user, response)
        if isinstance(image, str | Path | bytes | Image.Image):
            return cls(user, response, (image,))
        if not isinstance(image, Iterable):
            kind = type(image).__name__
            raise InputError(f"image must be a path, bytes or a PIL image, not {kind}")
        return cls(user, response, tuple(image))

    @classmethod
    def from_row(cls, row: Mapping[str, Any], folder: Path) -> Request:
        """A row with `user`, `response`, `image` (a path relative to `folder`, or a list of them).

        An image may also be its encoded bytes. Raises InputError when the row has none of them, a
        field is of another type, or content stands under another name, where it would not be
        looked at.
        """
        for name in ("images", "message", "messages"):
            if row.get(name):
                raise InputError(f"the row has {name!r}; user, response and image are what is read")
        images = row.get("image")
        listed = images if isinstance(images, list) else [] if images is None else [images]
        if not listed and row.get("user") is None and row.get("response") is None:
            raise InputError("the row has neither user, response nor image")
        sources = tuple(_image_source(image, folder) for image in listed)
        return cls(row.get("user"), row.get("response"), sources)


def _image_source(image: Any, folder: Path) -> Path | bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str):
        return folder / image
    raise InputError("image must be a path or a list of paths")


def read_text(path: Path | None) -> str:
    """A UTF-8 text file, or stdin for None. Raises InputError; LimitError when it is too long."""
    # A character takes at most four bytes; a stream may never end.
    limit = 4 * MAX_TEXT_CHARS
    try:
        if path is None:
            raw = sys.stdin.buffer.read(limit + 1)
        else:
            with path.open("rb") as file:
                raw = file.read(limit + 1)
        if len(raw) > limit:
            raise LimitError(
                f"{path or 'stdin'}: more than {MAX_TEXT_CHARS} characters; send it in parts"
            )
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path or 'stdin'}: not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
