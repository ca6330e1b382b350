"""transformers: `generate` in float32 on the full prompt, constrained to the answers of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proguard_edge.answer import AnswerGrammar, ResponseLine
from proguard_edge.bench.contenders import Answer
from proguard_edge.bench.peers.base import HEAD, TextPeer
from proguard_edge.bench.scenarios import Scenario
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.extras import need
from proguard_edge.prompt import PromptEncoder
from proguard_edge.request import Request

LONGEST_ANSWER = 48
FORMS: tuple[ResponseLine, ResponseLine] = ("absent", "judged")


class Transformers(TextPeer):
    """The whole answer, as a user of the library gets it."""

    name = "transformers"
    does = "the whole answer by generate, float32, full prompt, the same constraint"

    def __init__(self, checkpoint: Path, encoder: PromptEncoder, threads: int) -> None:
        """Raises ArtifactError: no checkpoint, or no transformers."""
        need("torch", "transformers", extra="peers")
        super().__init__(Checkpoint(checkpoint).folder, encoder, threads)
        import torch
        from transformers import Qwen2_5_VLForConditionalGeneration

        torch.set_num_threads(self.threads)
        self._torch = torch
        self._roots = {
            form: AnswerGrammar(encoder.encode_static, encoder.policy, form, False).root
            for form in FORMS
        }
        loader: Any = Qwen2_5_VLForConditionalGeneration
        self._model = loader.from_pretrained(
            checkpoint, dtype=torch.float32, local_files_only=True
        ).eval()
        self._end = self._model.generation_config.eos_token_id
        if isinstance(self._end, list):
            self._end = self._end[0]

    def judge(self, request: Request, scenario: Scenario) -> Answer:
        """See `Contender`."""
        prompt = self.encoder.content(request.user, request.response, mode=scenario.mode)
        ids = [*prompt.prefix_ids.tolist(), *prompt.content_ids.tolist(), *self.head]
        root = self._roots[FORMS[request.response is not None]]
        tensor = self._torch.tensor([ids])
        with self._torch.inference_mode():
            out = self._model.generate(
                tensor,
                attention_mask=self._torch.ones_like(tensor),
                do_sample=False,
                max_new_tokens=LONGEST_ANSWER,
                prefix_allowed_tokens_fn=lambda _, seen: self._next(root, seen[len(ids) :]),
                pad_token_id=self._end,
                eos_token_id=self._end,
            )
        said = self.encoder.decode(
            out[0, len(prompt.prefix_ids) + len(prompt.content_ids) :].tolist()
        )
        return Answer(said.removeprefix(HEAD).partition("\n")[0])

    def _next(self, root: Any, answer: Any) -> list[int]:
        node = root
        for token in [*self.head, *answer.tolist()]:
            node = node.children[token]
        return list(node.children) or [self._end]
