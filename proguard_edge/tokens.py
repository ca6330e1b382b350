"""The two tokenizers of a prompt, and how rows of static texts and slots become ids.

`full` recognises special tokens and only ever sees our own text. `plain` is the same vocabulary
without special tokens and sees everything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from proguard_edge.errors import ArtifactError, TextError
from proguard_edge.template import Piece, Slot

Ids = NDArray[np.int64]

MAX_FILE_BYTES = 64 << 20

# Normalisers under which a text and its normal form have the same ids: others add or drop text.
_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD"})
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True)
class Parts:
    """A rendered template cut where no token can reach across: ids, then pieces to encode."""

    prefix_ids: Ids
    rest: tuple[Piece, ...]


class Vocabulary:
    """A byte-level BPE `tokenizer.json`. Raises ArtifactError: missing, damaged, another make."""

    def __init__(self, path: Path) -> None:
        spec = _read(path)
        # A file that truncates or pads would lose text, or add some, without a word.
        spec |= {"truncation": None, "padding": None}
        self.full = _tokenizer(path, spec)
        self.plain = _tokenizer(path, {**spec, "added_tokens": [], "post_processor": None})
        self._normalizer = self.plain.normalizer
        self.added = {str(t["content"]): int(t["id"]) for t in spec.get("added_tokens", ())}
        # Longest first, as the tokenizer itself prefers.
        names = sorted(self.added, key=len, reverse=True)
        self._added = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None
        special = (t["id"] for t in spec.get("added_tokens", ()) if t.get("special"))
        self._special = np.array(sorted(special), np.int64)
        vocabulary = self.plain.get_vocab(with_added_tokens=False)
        self._lost = {byte for byte, char in _byte_chars().items() if char not in vocabulary}
        if self._lost & set(_REPLACEMENT.encode()):
            raise ArtifactError(f"{path}: the tokenizer cannot write U+FFFD")

    def added_token(self, text: str) -> str | None:
        """The first special or added token that the text contains."""
        found = self._added.search(text) if self._added else None
        return found[0] if found else None

    def normalize(self, text: str) -> str:
        """The text in the tokenizer's normal form; what it has no bytes for becomes U+FFFD.

        A byte-level vocabulary may lack bytes that its training text never held (that of SmolLM2
        lacks some), and then drops them without a word: a guard must not lose text.
        """
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        if self._lost:
            lost = [c for c in set(text) if not self._lost.isdisjoint(c.encode())]
            text = text.translate({ord(char): _REPLACEMENT for char in lost})
        return text

    def pieces(self) -> list[str]:
        """The text of each token by id; "" for added tokens, U+FFFD for bytes that are no text."""
        byte_of = {char: byte for byte, char in _byte_chars().items()}
        texts = [""] * (max(self.full.get_vocab().values()) + 1)
        for token, i in self.plain.get_vocab(with_added_tokens=False).items():
            if token not in self.added:
                raw = bytes(byte_of.get(char, 0xFF) for char in token)
                texts[i] = raw.decode("utf-8", errors="replace")
        return texts

    def split(self, pieces: Sequence[Piece]) -> Parts:
        """Ids of the longest part before `slot.prefix_end`, or before the first slot, and the rest.

        The cut stands at a place where one-piece encoding has a boundary whatever the content is.
        Raises ArtifactError when the special tokens of the template cannot be encoded exactly.
        """
        self._check_static("".join(piece for piece in pieces if isinstance(piece, str)))
        slot = next((i for i, piece in enumerate(pieces) if isinstance(piece, Slot)), len(pieces))
        before = "".join(piece for piece in pieces[:slot] if isinstance(piece, str))
        behind = list(pieces[slot:])
        if behind and behind[0] == Slot("prefix_end"):
            del behind[0]
        after = behind[0] if behind and isinstance(behind[0], str) else ""
        if after:
            del behind[0]
        # Behind the static text stands its end, or an image, which begins with a special token.
        ends = not behind or behind[0] == Slot("image")
        cut = self._safe_cut(before, after, ends=ends)
        rest: list[Piece] = [before[cut:] + after, *behind]
        prefix_ids = self.encode([before[:cut]], {}, [])
        prefix_ids.flags.writeable = False
        return Parts(prefix_ids, tuple(piece for piece in rest if piece != ""))

    def encode(self, pieces: Sequence[Piece], texts: Mapping[str, str], images: list[int]) -> Ids:
        """int64 [N]: pieces with their slots filled; `images` are the ids of the image slot.

        Raises TextError if a content came out as a special token, which should be impossible.
        """
        ids: list[int] = []
        run: list[str] = []
        for piece in pieces:
            if isinstance(piece, Slot) and piece.name != "image":
                run.append(texts.get(piece.name, ""))
            elif isinstance(piece, Slot):
                if images:
                    ids += self._run(run)
                    ids += images
            else:
                for i, part in enumerate(self._by_added(piece)):
                    if i % 2:
                        ids += self._run(run)
                        ids.append(self.added[part])
                    else:
                        run.append(part)
        ids += self._run(run)
        return np.array(ids, np.int64)

    def _run(self, run: list[str]) -> list[int]:
        """Ids of the collected plain text, which is emptied."""
        text = "".join(run)
        run.clear()
        ids: list[int] = self.plain.encode(text).ids if text else []
        if np.isin(ids, self._special).any():
            raise TextError("the text would become a special token of the model")
        return ids

    def _by_added(self, text: str) -> list[str]:
        """Plain text and added tokens in turn, plain text first and last."""
        return self._added.split(text) if self._added else [text]

    def _safe_cut(self, before: str, after: str, *, ends: bool) -> int:
        """The last position in `before` that is a token boundary whatever follows `after`.

        Words are cut apart before they are encoded, and a cut needs to see one character further.
        So a cut is certain where a whole word of static text stands behind it.
        """
        begin = len(before) - len(self._by_added(before)[-1])
        tail = self._by_added(after)
        run = before[begin:] + tail[0]
        closed = ends or len(tail) > 1
        words = [span for _, span in self.plain.pre_tokenizer.pre_tokenize_str(run)]
        cuts = [start for start, end in words if closed or end < len(run)]
        if closed or not run:
            cuts.append(len(run))
        return begin + max((cut for cut in cuts if cut <= len(before) - begin), default=0)

    def _check_static(self, text: str) -> None:
        # Also what finds added tokens with lstrip, rstrip or single_word, which _by_added ignores.
        expected = self.full.encode(text, add_special_tokens=False).ids
        if self.encode([text], {}, []).tolist() != expected:
            raise ArtifactError("the tokenizer reads the template's special tokens in another way")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ArtifactError(f"{path}: the tokenizer is larger than {MAX_FILE_BYTES} bytes")
    try:
        spec = json.loads(raw)
    except (ValueError, RecursionError):
        raise ArtifactError(f"{path}: not a tokenizer.json") from None
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise ArtifactError(f"{path}: not a tokenizer.json")
    words = json.dumps(spec.get("pre_tokenizer"))
    if spec["model"].get("type") != "BPE" or '"ByteLevel"' not in words:
        raise ArtifactError(f"{path}: not a byte-level BPE tokenizer: others may lose text")
    normalizer = (spec.get("normalizer") or {}).get("type")
    if normalizer is not None and normalizer not in _NORMALIZERS:
        raise ArtifactError(f"{path}: the normalizer {normalizer} would change the conversation")
    return spec


def _tokenizer(path: Path, spec: dict[str, Any]) -> Tokenizer:
    try:
        return Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception
        raise ArtifactError(f"{path}: not a valid tokenizer: {error}") from None


def _byte_chars() -> dict[int, str]:
    """The letter that byte-level BPE writes for every byte that UTF-8 can hold (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in shown]
    table = {byte: chr(byte) for byte in shown}
    table |= {byte: chr(0x100 + i) for i, byte in enumerate(hidden)}
    return {byte: char for byte, char in table.items() if byte < 0xF5 and byte not in (0xC0, 0xC1)}
