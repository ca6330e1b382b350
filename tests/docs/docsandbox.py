"""A folder in which a page's commands run, with stand-ins for what its reader has."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from docpages import Block, Command

import proguard_edge

STARTER = Path(proguard_edge.__file__).parent / "starter" / "artifact"
LIMIT_S = 1800
# What a page calls by an absolute path lies in the sandbox; a server listens on a port of its own.
MOVED = ("/models/", "/opt/proguard", "/var/lib/proguard", "/media/carry", "/etc/proguard")
# pip is asked for nothing: what it would install is there. `docparse` looks at what it is told.
TOOLS = {
    "pip": "#!/bin/sh\nexit 0\n",
    # A page asks with `curl -s`, whose exit code is 0 also for an HTTP error.
    "curl": f'#!/bin/sh\nexec {shutil.which("curl")} --fail-with-body "$@"\n',
}
HEAD = """
check() { case "|$2|" in *"|$1|"*) ;; *) echo "exit code $1, not $2" >&2; exit 97;; esac; }
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
"""
STEP = """
exec >"$LOGS/{number}.txt" 2>&1
echo "$EPOCHREALTIME {number}" >>"$LOGS/times"
set +e
{text}
code=$?
set -e
check $code {exits}
"""
# A server that a page leaves running ends as pages say: on SIGTERM, with 0.
TAIL = """
echo "$EPOCHREALTIME end" >>"$LOGS/times"
for pid in $(jobs -p); do
    kill -TERM "$pid" 2>/dev/null || true
    set +e; wait "$pid"; code=$?; set -e
    check $code 0
done
"""


@dataclass(frozen=True)
class Step:
    """A command that was run. seconds: how long it took. output: what it printed."""

    block: Block
    command: Command
    seconds: float
    output: str


@dataclass
class Sandbox:
    """folder: where commands run. port: of a server. replaced: text → what stands in for it.
    before: words that a shell is started by. own_tools: this environment's commands, on its PATH.
    """

    folder: Path
    port: int
    replaced: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()
    own_tools: bool = True

    def __post_init__(self) -> None:
        for path in MOVED:
            (self.folder / path.strip("/")).parent.mkdir(parents=True, exist_ok=True)
        tools = self.folder / ".bin"
        tools.mkdir(exist_ok=True)
        for name, script in TOOLS.items():
            (tools / name).write_text(script)
            (tools / name).chmod(0o755)

    def run(self, blocks: Sequence[Block], name: str = "page") -> list[Step]:
        """Run the blocks' commands in one bash, in order. Raises AssertionError at the first that
        leaves otherwise than its page says, with all that it printed."""
        logs = self.folder / f".{name}"
        logs.mkdir()
        commands = [(block, command) for block in blocks for command in self._commands(block)]
        script = logs / "script.sh"
        script.write_text(self._script([command for _, command in commands]), encoding="utf-8")
        done = subprocess.run(
            [*self.before, "bash", "-euo", "pipefail", str(script)],
            cwd=self.folder,
            env=self._environment(logs),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            text=True,
            check=False,
        )
        said = [(logs / f"{i}.txt") for i in range(len(commands))]
        outputs = [path.read_text(errors="replace") if path.exists() else "" for path in said]
        times = [line.split() for line in (logs / "times").read_text().splitlines()]
        if done.returncode:
            # Behind the last command a server may end otherwise than with 0.
            last = len(commands) - 1 if times[-1][1] == "end" else int(times[-1][1])
            block, command = commands[last]
            where = f"{block.page}:{command.line}: {command.text}"
            raise AssertionError(f"{where}\n{outputs[last][-3000:]}{done.stderr[-1000:]}")
        took = [float(after[0]) - float(before[0]) for before, after in pairwise(times)]
        return [
            Step(block, command, seconds, output)
            for (block, command), seconds, output in zip(commands, took, outputs, strict=True)
        ]

    def _script(self, commands: Sequence[Command]) -> str:
        steps = (
            STEP.format(text=self._moved(c.text), number=number, exits=shlex.quote(c.exits))
            for number, c in enumerate(commands)
        )
        return "".join([HEAD, *steps, TAIL])

    def _commands(self, block: Block) -> list[Command]:
        if block.language == "sh":
            return block.commands
        if name := block.directives.get("file"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(block.text + "\n", encoding="utf-8")
            return []
        if block.language != "python":
            return []
        path = self.folder / f".block-{block.line}.py"
        path.write_text(self._moved(block.text) + "\n", encoding="utf-8")
        runner = Path(__file__).with_name("docpython.py")
        words = [sys.executable, str(runner), str(path)]
        return [Command(shlex.join(words), block.line)]

    def _moved(self, text: str) -> str:
        for old, new in self.replaced.items():
            text = text.replace(old, new)
        for old in MOVED:
            text = re.sub(rf"(?<![\w/.]){re.escape(old)}", f"{self.folder}{old}", text)
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")
        return re.sub(r"(proguard-edge serve)\b", rf"\1 --port {self.port}", text)

    def _environment(self, logs: Path) -> dict[str, str]:
        own = Path(sys.executable).parent
        others = [p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != own]
        tools = [self.folder / ".bin", *([own] if self.own_tools else [])]
        path = os.pathsep.join([*map(str, tools), *others])
        # Lines that a narrow terminal would wrap could not be compared.
        return {**os.environ, "PATH": path, "LOGS": str(logs), "COLUMNS": "200"}


def runnable(block: Block, *, slow: bool) -> bool:
    """Whether a block is run now: also the slow ones, and what needs a module that is there."""
    if "not run" in block.directives or ("slow" in block.directives and not slow):
        return False
    needs = block.directives.get("needs", "").split()
    return all(find_spec(name) is not None for name in needs)


def compare(found: Sequence[Block], steps: Sequence[Step]) -> None:
    """Check what a page's blocks show as output of the blocks above them; prints every step."""
    said: dict[int, str] = {}
    for step in steps:
        said[step.block.line] = said.get(step.block.line, "") + step.output
        where = f"{step.block.page}:{step.command.line}"
        print(f"{step.seconds:7.1f} s  {where}  {step.command.text.splitlines()[0][:100]}")
    for before, block in pairwise(found):
        if "output" in block.directives and before.line in said:
            missing = unlike(block, said[before.line])
            assert not missing, f"{block.where}: {missing} not in\n{said[before.line]}"


def unlike(block: Block, output: str) -> list[str]:
    """Lines of an output block that stand nowhere in the output; … stands for anything."""
    return [
        line
        for line in map(str.strip, block.text.splitlines())
        if line
        and not re.search(r".*".join(map(re.escape, map(str.strip, line.split("…")))), output)
    ]
