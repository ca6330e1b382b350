"""Rows under augmented policies as the parquet files that verl reads.

How the prompt reaches the model unchanged
    verl turns messages into a prompt by the checkpoint's chat template, and takes `<image>` in a
    text for a picture. Here the whole prompt, with the template's own turns, is one message, and
    verl is given `CHAT_TEMPLATE` in place of the checkpoint's, which writes message contents as
    they are. An `<image>` that a user wrote gets a control character inside, which
    `CHAT_TEMPLATE` takes out again; `clean` leaves none of these in any content.

    Pictures are stored at the size and with the pixels that the runtime's preprocessing gives them:
    what verl and transformers then do to them changes nothing more. So the ids that verl trains on
    are those that `PromptEncoder` sends, one for one.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proguard_edge.errors import InputError, TrainingError
from proguard_edge.export.checkpoint import image_processor
from proguard_edge.image import load_image
from proguard_edge.policy import Policy
from proguard_edge.prompt import PromptEncoder
from proguard_edge.template import Mode, Template
from proguard_edge.train.augment import Hiding, Task, augment
from proguard_edge.train.rows import Row

IMAGE = "<image>"
MARK = "\x1a"
MEDIA = (IMAGE, "<video>", "<audio>")
BATCH = 256

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    '{% if message["content"] is string %}{{ message["content"] | replace("\\x1a", "") }}'
    '{% else %}{% for part in message["content"] %}'
    '{% if part["type"] == "image" %}<|vision_start|><|image_pad|><|vision_end|>'
    '{% else %}{{ part["text"] | replace("\\x1a", "") }}{% endif %}'
    "{% endfor %}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Prompting:
    """How rows become prompts.

    response_line: "always" where the template has a Response line for every conversation, answered
    or not, "given" where only an answer is judged. mode: "reason", or "verdict" for a student that
    is not to think. max_tokens: of the whole prompt, longer ones are left out.
    """

    checkpoint: Path
    template: Template
    policy: Policy
    response_line: str = "always"
    mode: Mode = "reason"
    max_tokens: int = 3072
    hiding: Hiding = field(default_factory=Hiding)


@dataclass
class Counts:
    """What became of the rows, by reason."""

    written: int = 0
    unlabelled: int = 0
    too_long: int = 0
    unreadable: int = 0
    longest: int = 0


@dataclass(frozen=True)
class Example:
    """verl's record of a row, the task that it came from, and the ids of its prompt."""

    record: dict[str, Any]
    task: Task
    ids: list[int]


class Builder:
    """Makes verl's records of rows. Raises ArtifactError for a checkpoint that cannot be used."""

    def __init__(self, prompting: Prompting) -> None:
        self._prompting = prompting
        self._encoder = PromptEncoder(
            prompting.checkpoint / "tokenizer.json", prompting.template, prompting.policy
        )
        self._processor = image_processor(prompting.checkpoint)
        self.counts = Counts()

    def record(self, row: Row, seed: int, split: str) -> dict[str, Any] | None:
        """The record of a row, or None, counted, where there is nothing to learn from it."""
        found = self.example(row, seed, split)
        return found.record if found is not None else None

    def decode(self, ids: list[int]) -> str:
        """The text of an answer's ids, special tokens and all."""
        return self._encoder.decode(ids)

    def example(self, row: Row, seed: int, split: str) -> Example | None:
        """The same with the row's task and the ids that its prompt comes to."""
        if row.request_label is None and row.response_label is None:
            self.counts.unlabelled += 1
            return None
        task = augment(row, self._prompting.policy, seed, self._prompting.hiding)
        try:
            prompt, images, ids = self._prompt(row, task)
        except (InputError, OSError):
            self.counts.unreadable += 1
            return None
        if len(ids) > self._prompting.max_tokens:
            self.counts.too_long += 1
            return None
        self.counts.written += 1
        self.counts.longest = max(self.counts.longest, len(ids))
        record = {
            "data_source": row.modality,
            "prompt": [{"role": "user", "content": prompt}],
            "ability": "safety",
            "reward_model": {"style": "rule", "ground_truth": task.target.to_json()},
            "extra_info": {
                "index": self.counts.written - 1,
                "split": split,
                "id": row.id,
                "source": row.source,
                "modality": row.modality,
                "policy_ids": list(task.policy.ids),
                "response_line": self._has_response_line(row),
            },
            "images": [{"bytes": image} for image in images],
        }
        return Example(record, task, ids)

    def _has_response_line(self, row: Row) -> bool:
        if row.modality == "image":
            return False
        return self._prompting.response_line == "always" or row.response is not None

    def _prompt(self, row: Row, task: Task) -> tuple[str, list[bytes], list[int]]:
        """Message text, pictures as PNG, and the ids with those of the pictures."""
        encoder = self._encoder.with_policy(task.policy)
        images, counts = [], []
        if row.image is not None:
            image, count = self._picture(row.image)
            images, counts = [image], [count]
        mode = self._prompting.mode
        text = encoder.text(row.user, row.response, counts, mode)
        prompt = encoder.content(row.user, row.response, counts, mode)
        if counts:
            block = encoder.decode(encoder.image_tokens.block(counts[0]))
            before, _, behind = text.partition(block)
            text = _escaped(before) + IMAGE + _escaped(behind)
        return text, images, [*prompt.prefix_ids, *prompt.content_ids]

    def _picture(self, path: Path) -> tuple[bytes, int]:
        """The picture as the runtime resizes its first view, as PNG, and its number of tokens."""
        from PIL import Image

        if self._processor is None:
            raise TrainingError(f"{self._prompting.checkpoint}: no preprocessor_config.json")
        view = next(iter(load_image(path))).image
        height, width = self._processor.smart_resize(view.height, view.width)
        resized = view.resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        resized.save(buffer, "PNG")
        block = self._processor.patch_size * self._processor.merge_size
        return buffer.getvalue(), (height // block) * (width // block)


def write_parquet(
    rows: Iterable[Row], builder: Builder, path: Path, seed: int, split: str, passes: int = 1
) -> int:
    """Write the rows `passes` times, each time under other policies; the number of records.

    Raises TrainingError when nothing is left to write or pyarrow is missing.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise TrainingError("pyarrow is not installed: pip install pyarrow") from None
    rows = list(rows)
    records = (
        record
        for number in range(passes)
        for row in rows
        if (record := builder.record(row, seed + number, split)) is not None
    )
    written = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, _schema(pa)) as writer:
        for batch in _chunks(records):
            writer.write_table(pa.Table.from_pylist(batch, schema=_schema(pa)))
            written += len(batch)
    if not written:
        raise TrainingError(f"no row of the {split} part can be trained on: {builder.counts}")
    return written


def _escaped(text: str) -> str:
    """What verl would take for a picture, with a mark inside that `CHAT_TEMPLATE` removes."""
    for tag in MEDIA:
        text = text.replace(tag, tag[0] + MARK + tag[1:])
    return text


def _chunks(records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _schema(pa: Any) -> Any:
    """The same for rows with and without pictures: verl joins files by their schema."""
    text = pa.string()
    return pa.schema(
        [
            ("data_source", text),
            ("prompt", pa.list_(pa.struct([("role", text), ("content", text)]))),
            ("ability", text),
            ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
            (
                "extra_info",
                pa.struct(
                    [
                        ("index", pa.int64()),
                        ("split", text),
                        ("id", text),
                        ("source", text),
                        ("modality", text),
                        ("policy_ids", pa.list_(text)),
                        ("response_line", pa.bool_()),
                    ]
                ),
            ),
            ("images", pa.list_(pa.struct([("bytes", pa.binary())]))),
        ]
    )
