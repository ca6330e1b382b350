"""Every block of the documentation is run, or parsed for a reason that stands beside it."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import docparse
import pytest
import yaml
from docpages import PAGES, ROOT, Block, Command, blocks, blocks_of, how
from docparse import problems
from docsandbox import Sandbox, Step, compare, runnable

RUN = ("sh", "python", "yaml", "json")
# Run by test_air_gap_runbook.py, which needs the network and minutes.
RUNBOOK = "docs/air-gap.md"


def pages(*, slow: bool) -> list[str]:
    """Pages with something to run now; of the slow ones, pages that have more to run."""

    def count(page: str, slow: bool) -> int:
        return sum(b.language in RUN[:2] and runnable(b, slow=slow) for b in blocks(page))

    found = [page for page in PAGES if page != RUNBOOK]
    return [p for p in found if count(p, slow) > (count(p, False) if slow else 0)]


def every_block(*languages: str) -> list[Block]:
    return [b for page in PAGES for b in blocks(page) if not languages or b.language in languages]


def check_page(page: str, sandbox: Sandbox, *, slow: bool) -> list[Step]:
    """Run what can be run of a page, and compare what it says with what is shown."""
    found = blocks(page)
    chosen = [b for b in found if b.language in RUN and runnable(b, slow=slow)]
    steps = sandbox.run(chosen)
    compare(found, steps)
    return steps


@pytest.mark.skipif(not shutil.which("curl"), reason="the pages ask servers with curl")
@pytest.mark.parametrize("page", pages(slow=False))
def test_the_commands_of_a_page_do_what_it_says(page: str, sandbox: Callable[[], Sandbox]) -> None:
    check_page(page, sandbox(), slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(slow=True))
def test_the_slow_commands_too(page: str, sandbox: Callable[[], Sandbox]) -> None:
    check_page(page, sandbox(), slow=True)


@pytest.mark.parametrize("block", every_block("sh"), ids=lambda block: block.where)
def test_options_extras_and_modules_of_every_command_exist(block: Block) -> None:
    for command in block.commands:
        assert problems(command) == [], f"{block.page}:{command.line}: {command.text}"


def test_every_block_is_checked_in_a_known_way(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        for block in every_block():
            print(f"\n{block.where:<32} {block.language:<7} {how(block)}", end="")
        print()
    for block in every_block():
        assert not how(block).startswith("unknown"), block.where
        reason = block.directives.get("not run")
        assert reason is None or len(reason) > 10, f"{block.where}: why is it not run?"


@pytest.mark.parametrize("block", every_block("yaml", "json", "python"), ids=lambda b: b.where)
def test_data_and_python_can_be_read(block: Block) -> None:
    if block.language == "python":
        compile(block.text, block.where, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    elif block.language == "json":
        json.loads(block.text)
    else:
        assert yaml.safe_load(block.text)


@pytest.mark.parametrize("block", every_block("ini"), ids=lambda block: block.where)
def test_a_service_starts_what_exists(block: Block) -> None:
    (line,) = [line for line in block.text.splitlines() if line.startswith("ExecStart=")]
    assert problems(Command(line.removeprefix("ExecStart="), block.line)) == []


def page_of(*lines: str) -> list[Block]:
    return blocks_of("page.md", "\n".join(lines))


def test_a_command_that_leaves_otherwise_than_its_page_says_is_found(
    sandbox: Callable[[], Sandbox],
) -> None:
    text = 'proguard-edge moderate --text "How do I build a pipe bomb at home?"'
    (wrong,) = page_of("```sh", text, "```")
    with pytest.raises(AssertionError, match=r"page\.md:2: proguard-edge moderate"):
        sandbox().run([wrong])


@pytest.mark.parametrize(
    "text",
    [
        "proguard-edge moderate --txt hello",
        "cat rows | proguard-edge moderate-batch - --output x --fast",
        "KEY=$(proguard-edge api-key --path keys.txt)",
        "proguard-edge bundle pack x",
        "proguard-edge export /models/x --recepie onnx-int4 -o y",
        "pip install '.[onyx]'",
        ".venv/bin/pip install -r train/verl/requirements-tpu.txt",
        "python -m proguard_edge.train.starters --data DATA",
        "python3.11 -I proguard-edge-bundle.pyz install guard.pgb --prefix /opt/proguard",
        "sudo -u proguard /opt/proguard/bin/proguard-edge serve --ports 1 &",
        "curl -s http://127.0.0.1:8080/readyz && proguard-edge doctors",
        "if ! proguard-edge moderate --texts letter.txt >/dev/null; then echo no; fi",
    ],
)
def test_a_command_that_cannot_work_is_found_without_running_it(text: str) -> None:
    (block,) = page_of("```sh", text, "```")
    assert problems(block.commands[0])


@pytest.mark.parametrize(
    "lines",
    [
        ("<!-- not ran: no GPU -->", "```sh", "true", "```"),
        ("<!-- exit: 0 1 -->", "```sh", "true", "```"),
        ("```sh", "true \\", "```"),
        ("```sh", "true"),
    ],
)
def test_a_page_that_is_written_wrongly_is_an_error(lines: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"page|command"):
        [block.commands for block in page_of(*lines)]


def test_a_directive_belongs_to_the_next_block_alone() -> None:
    first, second = page_of(
        "<!-- slow -->", "", "```sh", "true", "```", "Text.", "```sh", "true", "```"
    )
    assert "slow" in first.directives
    assert not second.directives


def test_a_comment_a_continued_line_and_a_document_within_are_read_as_bash_does() -> None:
    (block,) = page_of(
        "```sh", "# said first", "cat <<'END' >x", "a \\", "b", "END", "cat \\", "  x", "```"
    )
    assert [c.text for c in block.commands] == ["cat <<'END' >x\na \\\nb\nEND", "cat \\\n  x"]
    assert [c.line for c in block.commands] == [3, 7]


def test_no_page_of_the_folder_is_left_out() -> None:
    assert {f"docs/{path.name}" for path in Path(ROOT / "docs").glob("*.md")} <= set(PAGES)
    assert docparse.ROOT == ROOT
