"""The documentation's pages as blocks and commands, and how each block is to be checked.

    python tests/docs/docpages.py       # every block: the page, its line, how it is checked

Comments that no reader sees stand above a block and say what is special about it:

    <!-- exit: 0 1 0|1 -->      exit codes of its commands in order; without it all leave with 0
    <!-- slow -->               run with `-m slow` only
    <!-- needs: ray -->         run where this module is installed
    <!-- not run: WHY -->       parsed only
    <!-- side: outside -->      of an air gap: outside, inside
    <!-- file: NAME -->         the block's text becomes a file of the reader's folder
    <!-- output -->             what the block above must have printed; … stands for anything
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
# README and the training page live elsewhere; the rest is docs/.
PAGES = (
    "README.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
    "train/README.md",
)
DIRECTIVES = ("exit", "slow", "needs", "not run", "side", "file", "output", "test", "table")
_FENCE = re.compile(r"^```(\w*)\s*$")
_COMMENT = re.compile(r"^<!--\s*([a-z ]+?)\s*(?::\s*(.*?))?\s*-->$")
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")


@dataclass(frozen=True)
class Command:
    """One command of a block, over as many lines as it takes. line: of the page. exits: allowed."""

    text: str
    line: int
    exits: str = "0"


@dataclass(frozen=True)
class Block:
    """A fenced block. language: the word behind the fence. line: of its first line of text."""

    page: str
    language: str
    line: int
    text: str
    directives: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """`page:line`, which most terminals make a link of."""
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[Command]:
        """Of a block of shell. Raises ValueError where `exit` names another number of codes."""
        texts = list(_commands(self.text))
        exits = self.directives.get("exit", "").split() or ["0"] * len(texts)
        if len(exits) != len(texts):
            raise ValueError(f"{self.where}: {len(texts)} commands, {len(exits)} exit codes")
        return [
            Command(text, self.line + offset, code)
            for (offset, text), code in zip(texts, exits, strict=True)
        ]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page. Raises ValueError: an unknown directive, a fence left open."""
    return blocks_of(page, (ROOT / page).read_text(encoding="utf-8"))


def blocks_of(page: str, text: str) -> list[Block]:
    """`blocks` of a text."""
    found: list[Block] = []
    directives: dict[str, str] = {}
    begin, language, inside = 0, "", False
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.match(line)
        if inside and line.rstrip() == "```":
            body = "\n".join(lines[begin : number - 1])
            found.append(Block(page, language, begin + 1, body, directives))
            directives, inside = {}, False
        elif not inside and fence:
            begin, language, inside = number, fence[1], True
        elif not inside and (comment := _COMMENT.match(line)):
            if comment[1] not in DIRECTIVES:
                raise ValueError(f"{page}:{number}: unknown directive {comment[1]!r}")
            directives[comment[1]] = comment[2] or ""
        elif not inside and line.strip():
            directives = {}
    if inside:
        raise ValueError(f"{page}:{begin}: the fence is not closed")
    return found


def _commands(text: str) -> list[tuple[int, str]]:
    """Offset of the first line, and text, of each command; comments of their own line go."""
    found: list[tuple[int, str]] = []
    begin, held, until = 0, [], ""
    for offset, line in enumerate(text.splitlines()):
        if not held and (not line.strip() or line.lstrip().startswith("#")):
            continue
        begin = begin if held else offset
        held.append(line)
        if until:
            until = "" if line.strip() == until else until
        elif heredoc := _HEREDOC.search(line):
            until = heredoc[1]
        if not until and not line.endswith("\\"):
            found.append((begin, "\n".join(held)))
            held = []
    if held:
        raise ValueError(f"a command does not end: {held[0]}")
    return found


def how(block: Block) -> str:
    """How the tests check a block, in words."""
    if "not run" in block.directives:
        return f"parsed: {block.directives['not run']}"
    if "side" in block.directives:
        return f"run (slow) on the {block.directives['side']} of an air gap"
    if block.language in ("sh", "python"):
        slow = " (slow)" if "slow" in block.directives else ""
        needs = f" where {block.directives['needs']} is" if "needs" in block.directives else ""
        return f"run{slow}{needs}"
    if block.language == "ini":
        return "parsed: its ExecStart"
    if block.language == "text":
        return "compared with the output" if "output" in block.directives else "read"
    if block.language in ("yaml", "json"):
        return "a file of the page's commands" if "file" in block.directives else "parsed"
    return "drawn" if not block.language else f"unknown language {block.language}"


def main() -> None:
    """Print every block."""
    for page in PAGES:
        for block in blocks(page):
            print(f"{block.where:<32} {block.language:<7} {how(block)}")


if __name__ == "__main__":
    main()
