"""llama.cpp through llama-cpp-python: our integers as GGUF, the prompt's state kept."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from proguard_edge.artifact import Artifact
from proguard_edge.bench.contenders import Answer
from proguard_edge.bench.peers.base import TextPeer
from proguard_edge.bench.peers.gguf_model import write_gguf
from proguard_edge.bench.scenarios import Scenario
from proguard_edge.export.extras import need
from proguard_edge.prompt import PromptEncoder
from proguard_edge.request import Request


class LlamaCpp(TextPeer):
    """One context; what it has read of the prefix stays, and the rest is forgotten each time."""

    name = "llama.cpp"
    does = "the first label, the artifact's own 4-bit integers (Q4_1), prefix kept in the context"

    def __init__(self, artifact: Path, encoder: PromptEncoder, threads: int) -> None:
        """Raises ArtifactError: no INT4 artifact, or no llama-cpp-python."""
        need("llama_cpp", "gguf", extra="peers")
        super().__init__(artifact, encoder, threads)
        from llama_cpp import Llama

        source = Artifact.open(artifact)
        with TemporaryDirectory(prefix="proguard-edge-gguf-") as work:
            file = Path(work) / "model.gguf"
            write_gguf(source, file)
            self._llama: Any = Llama(
                str(file),
                n_ctx=min(8192, int(source.model["context"])),
                n_batch=512,
                n_threads=self.threads,
                n_threads_batch=self.threads,
                verbose=False,
                # The whole file is read now: it is gone when the folder is.
                use_mmap=False,
            )
        self._vocabulary = int(source.model["vocab"])
        self._prefix: list[int] = []

    def judge(self, request: Request, scenario: Scenario) -> Answer:
        """See `Contender`."""
        prompt = self.encoder.content(request.user, request.response, mode=scenario.mode)
        prefix = prompt.prefix_ids.tolist()
        if prefix != self._prefix:
            self._llama.reset()
            self._llama.eval(prefix)
            self._prefix = prefix
        # `eval` forgets what lies behind.
        self._llama.n_tokens = len(prefix)
        self._llama.eval([*prompt.content_ids.tolist(), *self.head])
        pointer = self._llama._ctx.get_logits_ith(-1)
        logits = np.ctypeslib.as_array(pointer, shape=(self._vocabulary,))
        return Answer(self.label(logits))

    def close(self) -> None:
        self._llama.close()
