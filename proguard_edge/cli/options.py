"""Options and loading that the moderating commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from proguard_edge.engine import Server
    from proguard_edge.guard import Guard
    from proguard_edge.policy import Policy
    from proguard_edge.template import Template
    from proguard_edge.train.verl.dataset import Prompting

FILE = click.Path(path_type=Path)
TEMPLATES = ("proguard", "edge", "compact")

hide_option = click.option(
    "--hide",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Probability that a category, and that a subcategory, is hidden from a row's policy.",
)

public_key_option = click.option(
    "--public-key", type=FILE, help="PEM; the artifact must be signed by this key."
)


def guard_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name a guard and how it judges; `load_guard` takes them."""
    options = (
        click.option("--artifact", type=FILE, help="Artifact folder; default: the starter."),
        click.option("--policy", "policy_file", type=FILE, help="Policy file to judge by."),
        click.option(
            "--mode",
            type=click.Choice(["verdict", "reason"]),
            default="verdict",
            show_default=True,
            help="verdict: answer at once. reason: think first.",
        ),
        click.option(
            "--engine",
            default="auto",
            show_default=True,
            help="auto, onnx, transformers, tensorrt_llm, remote.",
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="cuda: of the engines transformers and tensorrt_llm. auto: a GPU where one is.",
        ),
        click.option("--threads", type=click.IntRange(0), default=0, help="0: all cores."),
        click.option("--verify", is_flag=True, help="Check every byte of the artifact again."),
        public_key_option,
        click.option(
            "--ocr/--no-ocr",
            default=None,
            help="Judge text in images as text too; default: if the extra `ocr` is installed.",
        ),
        click.option(
            "--image-text-only", is_flag=True, help="Judge the text in images, not the scene."
        ),
        click.option(
            "--max-miss-rate",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            help="Miss at most this share of unsafe content, with 95 % confidence for content like "
            "that of the calibration; more false alarms.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name a server for `--engine remote`, as one keyword argument `server`.

    Stands below `guard_options`, whose `--engine` it reads.
    """

    @functools.wraps(command)
    def collected(
        *args: Any, server: str | None, served_model: str | None, top_logprobs: int, **kwargs: Any
    ) -> Any:
        if (kwargs["engine"] == "remote") != (server is not None):
            raise click.UsageError("--engine remote and --server go together")
        if server is None:
            return command(*args, server=None, **kwargs)
        from proguard_edge.engine import Server

        return command(*args, server=Server(server, served_model, top_logprobs), **kwargs)

    for option in (
        click.option(
            "--top-logprobs",
            type=click.IntRange(1),
            default=20,
            show_default=True,
            help="Likeliest tokens that the server lists at each step.",
        ),
        click.option("--served-model", help="The model's name there.  [default: the only one]"),
        click.option(
            "--server",
            metavar="URL",
            help="http://HOST:PORT/v1 of an OpenAI-compatible server, for --engine remote; an API "
            "key is read from PROGUARD_EDGE_API_KEY.",
        ),
    ):
        collected = option(collected)
    return collected


def load_guard(
    artifact: Path | None,
    policy_file: Path | None,
    engine: str,
    device: str,
    threads: int,
    verify: bool,
    public_key: Path | str | None,
    ocr: bool | None,
    image_text_only: bool,
    max_miss_rate: float | None,
    server: Server | None = None,
) -> tuple[Guard, Policy | None]:
    """The guard and the policy that the options name. Raises ArtifactError, PolicyError …"""
    from proguard_edge.guard import Guard
    from proguard_edge.policy import Policy

    policy = Policy.load(policy_file) if policy_file is not None else None
    guard = Guard.load(
        artifact,
        engine,
        device=device,
        threads=threads,
        verify=verify,
        public_key=public_key,
        ocr=ocr,
        image_text_only=image_text_only,
        max_miss_rate=max_miss_rate,
        server=server,
    )
    return guard, policy


def policy_named(name: str) -> Policy:
    """The package's policy for "default", else the policy in that file. Raises PolicyError."""
    from proguard_edge.policy import Policy

    return Policy.default() if name == "default" else Policy.load(name)


def response_line_of(template: str) -> str:
    """Released weights, which read the template "proguard", answer about a response even where
    none was given; see `Artifact.response_line`."""
    return "always" if template == "proguard" else "given"


def template_named(name: str) -> Template:
    """One of the package's templates, else the template in that file. Raises ArtifactError."""
    from proguard_edge.template import Template

    for known in TEMPLATES:
        if name == known:
            return Template.named(known)
    return Template.load(name)


def prompting_of(
    checkpoint: Path, template: str, policy: str, reasoning: bool, hide: float, **limits: int
) -> Prompting:
    """How rows become prompts, of the options that `train grpo` and its comparison share.

    limits: `max_tokens`, where not all prompts are taken. Raises PolicyError, ArtifactError.
    """
    from proguard_edge.train.augment import Hiding
    from proguard_edge.train.verl.dataset import Prompting

    return Prompting(
        checkpoint=checkpoint,
        template=template_named(template),
        policy=policy_named(policy),
        response_line=response_line_of(template),
        mode="reason" if reasoning else "verdict",
        hiding=Hiding(hide, hide),
        **limits,
    )
