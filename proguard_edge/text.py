"""What text from outside may hold, and how it is kept from posing as part of the prompt.

`clean` is the one place for text checks:
  - NUL and lone surrogates are errors: no honest sender produces them, and the text that follows
    them is lost or changed by some readers, so what we would judge is not what they would see;
  - every kind of line break becomes "\\n", so that a line means the same everywhere below;
  - other control characters become U+FFFD: visible, one for one, nothing is dropped.

`Defuser` then takes away the power of words that mean something to the template:
  - a tag of the template (`</answer>`, `<END CONVERSATION>`, `<|im_end|>`) loses its `<` to `‹`;
  - a line that begins like a turn (`Agent:`) gets `› ` in front and reads as a quotation.
Both are found in any case, full-width, and with spaces or invisible characters in between.
Nothing is removed, and cleaning or defusing twice changes nothing more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from proguard_edge.errors import TextError

_LINE_BREAKS = re.compile("\r\n|[\r\v\f\x85\u2028\u2029]")
_CONTROLS = re.compile("[\x01-\x08\x0e-\x1f\x7f]")
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")

# Characters that a reader does not see: soft hyphen, joiners, fillers, directions, selectors, tags.
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"
)
# Possessive: what ends a gap never belongs to it, so there is nothing to try again.
_GAP = f"[\\s{_INVISIBLE}]*+"
# Without "\n": otherwise every line of a run of empty lines would scan the whole run again.
_INDENT = f"(?:[^\\S\\n]|[{_INVISIBLE}])*+"
_WIDE = 0xFEE0
# The small form of each of these is a third way to write it.
_SMALL = {"<": "\ufe64", ">": "\ufe65", ":": "\ufe55", "|": "\uffe8"}

OPENING = "‹"
QUOTE = "› "


def clean(text: str) -> str:
    """The text with one kind of line break and visible controls.

    Raises TextError for NUL and for lone surrogates, with the character's position.
    """
    if found := _FORBIDDEN.search(text):
        what = "a NUL character" if found[0] == "\x00" else "half of a surrogate pair"
        raise TextError(f"the text holds {what} at character {found.start()}: remove it")
    return _CONTROLS.sub("\ufffd", _LINE_BREAKS.sub("\n", text))


class Defuser:
    """Disarms a template's tags and turn labels inside text that comes from outside.

    `tags` begin with "<"; `labels` are what stands before a turn, such as "Agent:".
    """

    def __init__(self, tags: Iterable[str], labels: Iterable[str]) -> None:
        self._tags = _any_of((tag[1:] for tag in tags), f"[<＜\ufe64](?={_GAP}", ")")
        self._labels = _any_of(labels, f"(^|\\n)({_INDENT})(?=", ")")

    def __call__(self, text: str) -> str:
        """The same text, unable to close a tag or to open a turn."""
        if self._labels:
            text = self._labels.sub(rf"\1\2{QUOTE}", text)
        if self._tags:
            text = self._tags.sub(OPENING, text)
        return text


def _any_of(words: Iterable[str], before: str, behind: str) -> re.Pattern[str] | None:
    # The words may begin alike in any order: only where one begins is used, not where it ends.
    visible = [re.sub(_GAP, "", word) for word in words]
    loose = sorted({_GAP.join(map(_loose, word)) for word in visible if word})
    if not loose:
        return None
    return re.compile(f"{before}(?:{'|'.join(loose)}){behind}", re.IGNORECASE)


def _loose(char: str) -> str:
    wide = chr(ord(char) + _WIDE) if "!" <= char <= "~" else ""
    return f"[{re.escape(char)}{wide}{_SMALL.get(char, '')}]"
