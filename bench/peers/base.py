"""What peers share: prompts of ours, and what they cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proguard_edge.bench.scenarios import Scenario
from proguard_edge.prompt import PromptEncoder
from proguard_edge.system import cores

HEAD = "<answer>\nRequest:"
WORDS = ("safe", "unsafe")


class TextPeer:
    """A peer that judges texts without reasoning.

    head: ids of the answer up to its first decision; labels: the tokens that decide it.
    """

    name = "peer"
    does = "the label of the request"

    def __init__(self, checkpoint: Path, encoder: PromptEncoder, threads: int) -> None:
        self.checkpoint, self.encoder = checkpoint, encoder
        self.threads = threads or cores()
        said = [list(encoder.encode_static(f"{HEAD}{word}\nCategory:")) for word in WORDS]
        # Not the ids of HEAD alone: a tokenizer may join its last letters with a label's first.
        same = next(i for i, pair in enumerate(zip(*said, strict=False)) if pair[0] != pair[1])
        self.head = said[0][:same]
        self.labels = [ids[same] for ids in said]

    def refuses(self, scenario: Scenario) -> str | None:
        """Pictures, mode reason, and other policies than the encoder's."""
        if scenario.categories:
            return f"{self.name} is wired up for the artifact's own policy"
        if scenario.modality != "text" or scenario.mode != "verdict":
            return f"{self.name} is wired up for texts in mode verdict"
        return None

    def about(self) -> dict[str, Any]:
        """What it does and on what."""
        return {"peer": self.name, "does": self.does, "threads": self.threads}

    def close(self) -> None:
        """Nothing to give back."""

    def label(self, logits: Any) -> str:
        """The likelier word of two, from logits of the whole vocabulary [V]."""
        return WORDS[int(logits[self.labels[1]] > logits[self.labels[0]])]
