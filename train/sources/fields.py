"""Reading one field of a foreign record: absent, null, empty and NaN all mean "nothing here"."""

from __future__ import annotations

from collections.abc import Mapping

from proguard_edge.train.sources.files import Record


def text(record: Record, name: str) -> str | None:
    """The text of a field, None when it is blank. Raises ValueError when it is not a text."""
    value = record.get(name)
    # Tables written by pandas hold NaN where nothing was.
    if value is None or (isinstance(value, float) and value != value):
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text but {type(value).__name__}")
    return value if value.strip() else None


def required_text(record: Record, name: str) -> str:
    """Like `text`. Raises ValueError when there is none."""
    value = text(record, name)
    if value is None:
        raise ValueError(f"{name} is empty")
    return value


def label(record: Record, name: str, words: Mapping[str, str | None]) -> str | None:
    """The label that `words` (lower case) gives the field's word; None for a blank field.

    Raises ValueError for any other word: a label must never be guessed.
    """
    word = text(record, name)
    if word is None:
        return None
    key = word.strip().lower()
    if key not in words:
        raise ValueError(f"{name} is {word!r:.40}, not one of {', '.join(words)}")
    return words[key]


def flag(record: Record, name: str) -> bool:
    """A field that is 0/1, true/false or one of these as a text. Raises ValueError, KeyError."""
    value = record[name]
    known = {"0": False, "false": False, "no": False, "1": True, "true": True, "yes": True}
    key = str(value).strip().lower()
    if key not in known:
        raise ValueError(f"{name} is {value!r:.40}, not yes or no")
    return known[key]


SAFE_UNSAFE: Mapping[str, str | None] = {"safe": "safe", "unsafe": "unsafe"}
