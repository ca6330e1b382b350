"""OpenVINO GenAI: our integers as GGUF, its scheduler's prefix caching on."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from proguard_edge.artifact import Artifact
from proguard_edge.bench.contenders import Answer
from proguard_edge.bench.peers.base import WORDS, TextPeer
from proguard_edge.bench.peers.gguf_model import write_gguf
from proguard_edge.bench.scenarios import Scenario
from proguard_edge.errors import AnswerError
from proguard_edge.export.extras import need
from proguard_edge.prompt import PromptEncoder
from proguard_edge.request import Request

CACHE_GB = 2


class OpenVINO(TextPeer):
    """Continuous batching with blocks of the prefix kept; one token, constrained to the labels."""

    name = "openvino"
    does = "the first label, the artifact's own 4-bit integers (GGUF), prefix caching"

    def __init__(self, artifact: Path, encoder: PromptEncoder, threads: int) -> None:
        """Raises ArtifactError: no INT4 artifact, or no openvino-genai."""
        need("openvino_genai", "openvino_tokenizers", "gguf", extra="peers")
        super().__init__(artifact, encoder, threads)
        import openvino
        import openvino_genai

        source = Artifact.open(artifact)
        self._tensor = openvino.Tensor
        with TemporaryDirectory(prefix="proguard-edge-openvino-") as work:
            model, tokenizer = Path(work) / "model.gguf", Path(work) / "tokenizer"
            write_gguf(source, model)
            _write_tokenizer(source, tokenizer)
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.enable_prefix_caching = True
            scheduler.cache_size = CACHE_GB
            self._pipeline: Any = openvino_genai.LLMPipeline(
                str(model),
                openvino_genai.Tokenizer(str(tokenizer)),
                "CPU",
                scheduler_config=scheduler,
                INFERENCE_NUM_THREADS=self.threads,
            )
        # Weights that were trained on labels alone may like another word best.
        either = openvino_genai.StructuredOutputConfig(regex="|".join(WORDS))
        self._config = openvino_genai.GenerationConfig(
            max_new_tokens=1, do_sample=False, structured_output_config=either
        )

    def judge(self, request: Request, scenario: Scenario) -> Answer:
        """See `Contender`. Raises AnswerError when the likeliest token is no label."""
        prompt = self.encoder.content(request.user, request.response, mode=scenario.mode)
        ids = [*prompt.prefix_ids.tolist(), *prompt.content_ids.tolist(), *self.head]
        said = self._pipeline.generate(self._tensor(np.array([ids], np.int64)), self._config)
        # The constraint is one of letters: a label may begin with a shorter token than ours.
        text = self.encoder.decode([said.tokens[0][0]])
        begun = [word for word in WORDS if text and word.startswith(text)]
        if len(begun) != 1:
            raise AnswerError(f"{self.name} said {text!r}, which begins no label")
        return Answer(begun[0])


def _write_tokenizer(artifact: Artifact, out: Path) -> None:
    """The pipeline wants one, though it is given ids."""
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import PreTrainedTokenizerFast

    file = artifact.path("tokenizer.json")
    special = json.loads(file.read_text(encoding="utf-8"))["added_tokens"]
    # It also wants an end; nothing is generated that could meet it.
    fast = PreTrainedTokenizerFast(tokenizer_file=str(file), eos_token=special[0]["content"])
    out.mkdir()
    names = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
    for model, name in zip(convert_tokenizer(fast, with_detokenizer=True), names, strict=True):
        openvino.save_model(model, out / name)
