"""Content: bodies of requests to what a guard judges."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence

from proguard_edge.errors import ImageError, InputError, LimitError
from proguard_edge.image.load import DEFAULT_LIMITS
from proguard_edge.request import Request
from proguard_edge.serve.bodies import ImagePart, TextPart, VerdictRequest

_DATA_URL = re.compile(r"data:(?P<type>[\w.+/-]*)(?P<options>(;[\w=.+-]+)*),", re.ASCII)


def image_bytes(url: str) -> bytes:
    """The picture in a data URL. Raises InputError for an address: nothing is ever fetched."""
    if not url[:5].lower() == "data:":
        raise InputError(
            "an image must be a data URL (data:image/png;base64,…): this server fetches nothing"
        )
    head = _DATA_URL.match(url[:200])
    if head is None or not head["options"].endswith(";base64"):
        raise ImageError("the data URL is not base64: send data:image/png;base64,…")
    encoded = url[head.end() :]
    if len(encoded) > DEFAULT_LIMITS.max_bytes * 4 // 3 + 4:
        raise LimitError(f"an image of more than {DEFAULT_LIMITS.max_bytes} bytes")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("the data URL holds no valid base64") from None


def request_of_parts(parts: Sequence[TextPart | ImagePart]) -> Request:
    """One conversation of the parts of a multi-modal input: texts are joined by line breaks."""
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    images = [image_bytes(part.image_url.url) for part in parts if isinstance(part, ImagePart)]
    return Request(user="\n".join(texts) if texts else None, images=tuple(images))


def request_of(body: VerdictRequest) -> Request:
    """The conversation of a native request. Raises InputError, where there is none too."""
    urls = [body.image] if isinstance(body.image, str) else body.image or []
    if body.user is None and body.response is None and not urls:
        raise InputError("nothing to judge: give user, response or image")
    return Request(body.user, body.response, tuple(image_bytes(url) for url in urls))
