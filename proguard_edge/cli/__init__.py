"""The command line. The top level maps names to modules and imports one of them late."""

from __future__ import annotations

import importlib
import io
import sys

import click

# name → (module:attribute, one line for --help); importing every command to ask for its help would
# load libraries that most calls do not need.
COMMANDS = {
    "moderate": ("proguard_edge.cli.moderate:moderate", "Judge one text, image or conversation."),
    "moderate-batch": ("proguard_edge.cli.batch:moderate_batch", "Judge the rows of a JSONL file."),
    "scan": ("proguard_edge.cli.scan:scan", "Judge folders and data sets of any size, with Ray."),
    "serve": ("proguard_edge.cli.serve:serve", "Moderate over HTTP, with a page to see it."),
    "api-key": ("proguard_edge.cli.serve:api_key", "Make a key for a client of the server."),
    "audit": ("proguard_edge.cli.audit:audit", "Verify the audit log of a server."),
    "policy": ("proguard_edge.cli.policy:policy", "Show, check, import and cut policy files."),
    "artifact": (
        "proguard_edge.cli.artifact:artifact",
        "Look at an artifact, sign it, or verify its bytes.",
    ),
    "bundle": ("proguard_edge.cli.bundle:bundle", "Carry it all across an air gap, signed."),
    "env": ("proguard_edge.cli.env:env", "Environments of stages, pinned by hashes."),
    "doctor": (
        "proguard_edge.cli.doctor:doctor",
        "Whether this machine is fit to judge, and what to do.",
    ),
    "export": ("proguard_edge.cli.export:export", "Turn a checkpoint folder into an artifact."),
    "calibrate": (
        "proguard_edge.cli.calibrate:calibrate",
        "Fit an artifact's scores and bounds to labelled rows.",
    ),
    "bench": ("proguard_edge.cli.bench:bench", "Time verdicts on this machine."),
    "eval": ("proguard_edge.cli.evaluate:evaluate", "Accuracy on labelled rows."),
    "train": ("proguard_edge.cli.train:train", "Make or improve a checkpoint."),
}

# Commands of stages that may live in an environment of their own.
STAGE_OF = {
    "scan": "scan",
    "serve": "serve",
    "export": "export",
    "bench": "bench",
    "eval": "bench",
    "train": "train",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        asks = {"-h", "--help"} & {*args} or ctx.resilient_parsing
        if args and args[0] in STAGE_OF and not asks:
            from proguard_edge.cli.elsewhere import go_where_it_runs

            go_where_it_runs(STAGE_OF[args[0]], args)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="proguard-edge", prog_name="proguard-edge")
def main() -> None:
    """Local text and image moderation with ProGuard guard models.

    Exit codes: 0 all safe, 1 something unsafe, 2 usage, 3 error. An error is never "safe".
    """
    # A terminal that cannot show a character gets "?" for it: the verdict is worth more.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
