"""onnxruntime-genai with its own 4-bit export, rewound to the policy's prefix for every request."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from proguard_edge.bench.contenders import Answer
from proguard_edge.bench.peers.base import TextPeer
from proguard_edge.bench.peers.text_model import write_text_model
from proguard_edge.bench.scenarios import Scenario
from proguard_edge.errors import ArtifactError
from proguard_edge.export.checkpoint import Checkpoint
from proguard_edge.export.extras import need
from proguard_edge.prompt import PromptEncoder
from proguard_edge.request import Request

CONTEXT = 8192


class GenAI(TextPeer):
    """One generator for each kind of prompt; `rewind_to` its prefix, then the content's logits."""

    name = "genai"
    does = "the first label, 4 bits in blocks of 32, rewind_to the cached prefix"

    def __init__(self, checkpoint: Path, encoder: PromptEncoder, threads: int) -> None:
        """Raises ArtifactError: no checkpoint, no onnxruntime-genai, or a builder that failed."""
        need("onnxruntime_genai", "torch", "transformers", extra="peers")
        super().__init__(Checkpoint(checkpoint).folder, encoder, threads)
        import onnxruntime_genai as og

        self._og: Any = og
        self._work = TemporaryDirectory(prefix="proguard-edge-genai-")
        folder = self._build(Path(self._work.name))
        config = og.Config(str(folder))
        config.clear_providers()
        options = {"intra_op_num_threads": self.threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = og.Model(config)
        self._generators: dict[tuple[int, ...], Any] = {}
        text = Checkpoint(checkpoint).config.text_config
        self._tokens = min(CONTEXT, text.max_position_embeddings)

    def judge(self, request: Request, scenario: Scenario) -> Answer:
        """See `Contender`."""
        prompt = self.encoder.content(request.user, request.response, mode=scenario.mode)
        prefix = tuple(prompt.prefix_ids.tolist())
        generator = self._generators.get(prefix)
        if generator is None:
            generator = self._generators[prefix] = self._begin(prefix)
        generator.rewind_to(len(prefix))
        generator.append_tokens([*prompt.content_ids.tolist(), *self.head])
        return Answer(self.label(generator.get_logits()[0, -1]))

    def close(self) -> None:
        self._generators.clear()
        self._work.cleanup()

    def _begin(self, prefix: tuple[int, ...]) -> Any:
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(max_length=self._tokens, do_sample=False)
        generator = self._og.Generator(self._model, params)
        generator.append_tokens(list(prefix))
        return generator

    def _build(self, work: Path) -> Path:
        write_text_model(self.checkpoint, work / "text")
        out = work / "model"
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", work / "text"]
        command += ["-o", out, "-p", "int4", "-e", "cpu", "-c", work / "cache", "--extra_options"]
        command += ["int4_block_size=32", "int4_accuracy_level=4"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise ArtifactError(f"onnxruntime-genai's builder failed: {last[:300]}")
        return out
