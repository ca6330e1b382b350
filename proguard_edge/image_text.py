"""Text in images as a second pair of eyes: it is read, and judged as text requests of its own.

The text of each image is judged alone. Where there is more than one text, the user's included, all
of them are judged once more in reading order, images first as the prompt has them, because a
request may be split over them: a picture of "Steps to …: 1. 2. 3." and "fill in the list".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from proguard_edge.errors import ArtifactError, ImageError, InputError
from proguard_edge.image import load_image
from proguard_edge.image.read import ReadText, TextReader, installed
from proguard_edge.request import Request

if TYPE_CHECKING:
    from proguard_edge.image import View

NOT_SEEN = "nobody looked at the scene; `proguard-edge export` makes an artifact that sees"


class Eyes:
    """Whether a guard reads the text in images: not, beside the model, or instead of it."""

    def __init__(
        self, modalities: Iterable[str], ocr: bool | None, only: bool, threads: int
    ) -> None:
        """ocr: None = where it can be had. only: judge the text in images and not the scene.

        Raises EngineError when reading is asked for and the extra is missing, ArtifactError when
        the artifact judges no text, InputError when the options contradict each other.
        """
        if only and ocr is False:
            raise InputError("image_text_only reads the text in images: ocr cannot be off")
        can_judge = "text" in modalities
        if (only or ocr) and not can_judge:
            raise ArtifactError("this artifact judges no text, so none in images; leave ocr out")
        self.only = only
        wanted = only or (ocr is None and can_judge and installed()) or bool(ocr)
        self.reader: TextReader | None = TextReader(threads) if wanted else None

    @property
    def identity(self) -> str:
        """What verdicts on images depend on: the way of reading, and the library's version."""
        if self.reader is None:
            return "image unread"
        return f"image {'text only' if self.only else 'and text'}, {self.reader.identity}"

    def close(self) -> None:
        """Free the reader's models."""
        if self.reader is not None:
            self.reader.close()


class Reading:
    """What was read in the images of one request."""

    def __init__(self, request: Request, eyes: Eyes) -> None:
        self._request, self._reader = request, eyes.reader
        self.only = eyes.only and bool(request.images)
        self.texts: list[str] = []
        self.ms: float | None = None

    def see(self, view: View) -> ReadText | None:
        """Read a view, unless the guard does not read; a text that was seen before is kept once."""
        if self._reader is None:
            return None
        begin = perf_counter()
        found = self._reader.read(view.image)
        self.ms = (self.ms or 0.0) + 1000 * (perf_counter() - begin)
        if found.found and _bare(found.text) not in map(_bare, self.texts):
            self.texts.append(found.text)
        return found

    def see_text_alone(self) -> None:
        """Read every view of every image; nothing else will look at them.

        Raises ImageError for an image without text, or with text of which less was made out than
        was not.
        """
        for image in self._request.images:
            found = [read for view in load_image(image) if (read := self.see(view))]
            if not any(text.found for text in found):
                raise ImageError(f"no text was found in the image; {NOT_SEEN}")
            if not all(text.legible for text in found):
                raise ImageError(f"most text in the image could not be made out; {NOT_SEEN}")

    def requests(self) -> Iterator[Request]:
        """The texts, each alone, and all together with the user's; the response goes with these."""
        user, response = self._request.user, self._request.response
        own = [user] if user and user.strip() else []
        if not self.texts:
            return
        alone = self.texts + (own if self.only else [])
        together = "\n".join([*self.texts, *own])
        for text in alone:
            if text != together:
                yield Request(text)
        yield Request(together, response)

    def evaluated(self) -> tuple[str, ...]:
        """The verdict's `evaluated`."""
        request = self._request
        looked_at = {
            "user_text": bool(request.user and request.user.strip()),
            "response": request.response is not None,
            "image": bool(request.images) and not self.only,
            "image_text": bool(self.texts),
        }
        return tuple(name for name, seen in looked_at.items() if seen)


def _bare(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
