"""Boxes of text lines: those of one line become one, and lines become a text in reading order.

A box is float [4, 2], the corners in pixels, clockwise from where the line begins to be read: the
line runs from box[0] to box[1], and from box[0] to box[3] is its height.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Box = npt.NDArray[np.float64]

# Lines whose directions differ by less are one paragraph: cos 25°.
_SAME_DIRECTION = 0.9
_LIST_ITEM = re.compile(r"(\d{1,3}|[a-zA-Z])[.):]|[•●▪■*–-]\s")


@dataclass(frozen=True, eq=False)
class Line:
    """What was read in one box, and how sure the reader is, 0 to 1."""

    text: str
    score: float
    box: Box

    @property
    def height(self) -> float:
        """Of the letters with their margin, in pixels."""
        return sides(self.box)[1]

    @property
    def area(self) -> float:
        """Square pixels."""
        length, height = sides(self.box)
        return length * height

    @property
    def letters(self) -> int:
        """Letters of any script; digits and signs do not count."""
        return sum(map(str.isalpha, self.text))


def sides(box: Box) -> tuple[float, float]:
    """Length and height of the line, in pixels."""
    return float(np.linalg.norm(box[1] - box[0])), float(np.linalg.norm(box[3] - box[0]))


def merged(boxes: Iterable[Box]) -> list[Box]:
    """Boxes that show parts of the same line, as overlapping looks find them, made one."""
    left = list(boxes)
    done: list[Box] = []
    while left:
        box = left.pop()
        for index, other in enumerate(left):
            if (whole := _joined(box, other)) is not None:
                left[index] = whole
                break
        else:
            done.append(box)
    return done


def _joined(one: Box, two: Box) -> Box | None:
    """The box around two that continue or repeat each other on one line, else None."""
    long, short = (one, two) if sides(one)[0] >= sides(two)[0] else (two, one)
    along = _direction(long)
    across = np.array([-along[1], along[0]])
    a, b = long @ np.stack([along, across], 1), short @ np.stack([along, across], 1)
    (a_from, a_top), (a_to, a_bottom) = a.min(0), a.max(0)
    (b_from, b_top), (b_to, b_bottom) = b.min(0), b.max(0)
    heights = sorted((a_bottom - a_top, b_bottom - b_top))
    if heights[1] > 1.6 * heights[0] or min(a_to, b_to) <= max(a_from, b_from):
        return None
    if abs((a_top + a_bottom) - (b_top + b_bottom)) > heights[0]:
        return None
    (x, y), (right, bottom) = np.minimum(a.min(0), b.min(0)), np.maximum(a.max(0), b.max(0))
    corners = np.array([[x, y], [right, y], [right, bottom], [x, bottom]])
    whole: Box = corners @ np.stack([along, across])
    return whole


def repeated(line: Line, other: Line) -> bool:
    """Whether one of the lines lies on the other, as when two looks found it in two sizes."""
    return _holds(line.box, other.box.mean(0)) or _holds(other.box, line.box.mean(0))


def _holds(box: Box, point: Box) -> bool:
    along = _direction(box)
    frame = np.stack([along, np.array([-along[1], along[0]])], 1)
    corners, at = box @ frame, point @ frame
    return bool((corners.min(0) <= at).all() and (at <= corners.max(0)).all())


def text_of(lines: Iterable[Line]) -> str:
    """The lines from top to bottom; those that run in another direction make another paragraph.

    Lines of a sentence are joined by a space; a list item and a paragraph begin on a new line. Two
    columns side by side are read across.
    """
    left, parts = sorted(lines, key=lambda line: -line.area), []
    while left:
        along = _direction(left[0].box)
        group = [line for line in left if _direction(line.box) @ along >= _SAME_DIRECTION]
        left = [line for line in left if all(line is not other for other in group)]
        parts.append(_paragraphs(_rows(group, along), along))
    return "\n".join(parts)


def _rows(lines: Sequence[Line], along: Box) -> list[list[Line]]:
    """Lines that stand beside each other, left to right; rows from top to bottom."""
    across = np.array([-along[1], along[0]])
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: float(line.box.mean(0) @ across)):
        if rows:
            before = rows[-1][-1]
            shift = abs(float((line.box.mean(0) - before.box.mean(0)) @ across))
            if shift < 0.5 * min(line.height, before.height):
                rows[-1].append(line)
                continue
        rows.append([line])
    return [sorted(row, key=lambda line: float(line.box.mean(0) @ along)) for row in rows]


def _paragraphs(rows: Sequence[Sequence[Line]], along: Box) -> str:
    across = np.array([-along[1], along[0]])
    out, bottom = "", 0.0
    for row in rows:
        text = " ".join(line.text.strip() for line in row)
        top = min(float((line.box @ across).min()) for line in row)
        height = max(line.height for line in row)
        if not out:
            out = text
        elif _LIST_ITEM.match(text) or top - bottom > 0.8 * height:
            out += f"\n{text}"
        else:
            out += text if out.endswith("-") else f" {text}"
        bottom = max(float((line.box @ across).max()) for line in row)
    return out


def _direction(box: Box) -> Box:
    """The unit vector along which the line is read."""
    run: Box = (box[1] - box[0]) + (box[2] - box[3])
    return run / max(float(np.linalg.norm(run)), 1e-9)
