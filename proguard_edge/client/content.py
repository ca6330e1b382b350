"""What is sent: a request as JSON, its pictures as data URLs. Nothing here opens a connection."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

from proguard_edge.errors import ImageError, LimitError
from proguard_edge.image.load import DEFAULT_LIMITS, read_file
from proguard_edge.policies.reader import policy_data
from proguard_edge.policy import Policy
from proguard_edge.request import Request
from proguard_edge.template import Mode
from proguard_edge.text import clean

if TYPE_CHECKING:
    from PIL import Image

    from proguard_edge.request import ImageSource

# PNG keeps the pixels of these as they are.
_EXACT = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
# Of these the guard sees what a conversion to RGB gives.
_CONVERTED = frozenset({"CMYK", "YCbCr", "HSV", "RGBX"})


def body_of(request: Request, policy: Policy | str | None, mode: Mode | None, **more: Any) -> bytes:
    """The body of `/v1/verdicts`; with more fields a line of the stream.

    policy: a name that the server knows, or a policy to send along. Raises TextError for text
    that JSON cannot carry, ImageError and LimitError for pictures.
    """
    for text in (request.user, request.response):
        if text is not None:
            clean(text)
    fields = {
        **more,
        "user": request.user,
        "response": request.response,
        "image": [data_url(image, n) for n, image in enumerate(request.images, 1)] or None,
        "policy": policy_data(policy) if isinstance(policy, Policy) else policy,
        "mode": mode,
    }
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def data_url(image: ImageSource, number: int = 1) -> str:
    """The picture in a data URL. number: its place in the request, for errors.

    The server tells the format by the bytes. Raises ImageError, LimitError.
    """
    from PIL import Image

    shown = f"image {number}"
    if isinstance(image, Image.Image):
        raw = _encoded(image, shown)
    elif isinstance(image, bytes):
        raw = image
    else:
        raw = read_file(image, DEFAULT_LIMITS, shown)
    if not raw:
        raise ImageError(f"{shown}: empty (0 bytes); send the whole file")
    if len(raw) > DEFAULT_LIMITS.max_bytes:
        raise LimitError(
            f"{shown}: more than {DEFAULT_LIMITS.max_bytes} bytes; send a smaller image"
        )
    return f"data:application/octet-stream;base64,{base64.b64encode(raw).decode()}"


def _encoded(image: Image.Image, shown: str) -> bytes:
    """A PIL image as PNG: the same pixels and orientation."""
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"{shown}: it has several frames; give the file's path or its bytes")
    clear = image.has_transparency_data
    if image.mode not in _EXACT and (clear or image.mode not in _CONVERTED):
        raise ImageError(f"{shown}: mode {image.mode} cannot be sent; convert it to 8-bit RGB")
    out = io.BytesIO()
    # Pillow raises whatever a truncated file or an odd palette makes it run into.
    try:
        sent = image if image.mode in _EXACT else image.convert("RGB")
        sent.save(out, "PNG", compress_level=1, exif=_orientation(image))
    except Exception as error:  # noqa: BLE001
        kind = type(error).__name__
        raise ImageError(f"{shown}: it cannot be encoded as PNG ({kind})") from None
    return out.getvalue()


def _orientation(image: Image.Image) -> bytes:
    """EXIF that holds how the picture is turned and nothing else: no place, no names."""
    from PIL import ExifTags, Image

    kept = Image.Exif()
    # Damaged EXIF counts as upright, as it does for the guard.
    try:
        turned = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001
        turned = 1
    if not 1 < turned <= 8:
        return b""
    kept[ExifTags.Base.Orientation] = turned
    return kept.tobytes()
