"""What can be told of a command without running it: its options, its extras, its modules."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import tomllib
from pathlib import Path

import click
from docpages import ROOT, Command

from proguard_edge.cli import main

_INNER = re.compile(r"\$\(([^()]*)\)")
_EXTRAS = re.compile(r"^(?:\.|proguard-edge|.*\.whl)\[([\w,-]+)\]$")
_PYTHON = re.compile(r"^python(3(\.\d+)?)?$")
BEFORE = ("sudo", "time", "nohup", "exec", "if", "then", "else", "elif", "while", "do", "!", "{")
_SPLIT = {"|", "||", "&&", ";", "&"}


def problems(command: Command) -> list[str]:
    """What is wrong with it, one sentence each; none is good."""
    found: list[str] = []
    for words in simple_commands(command.text):
        name = Path(words[0]).name
        rest = words[1:]
        if name == "proguard-edge":
            found += _click_problems(rest, main, name)
        elif name == "pip":
            found += _pip_problems(rest)
        elif _PYTHON.match(name):
            found += _python_problems(rest)
    return found


def simple_commands(text: str) -> list[list[str]]:
    """The words of each simple command in a line: of pipes, lists and `$(…)`, without variables
    set before it and without redirections."""
    text = text.split("\n", 1)[0] if "<<" in text else text.replace("\\\n", " ")
    inner = _INNER.findall(text)
    lexer = shlex.shlex(_INNER.sub("INNER", text), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    found: list[list[str]] = [[]]
    redirected = False
    for word in lexer:
        if word in _SPLIT:
            found.append([])
        elif word and set(word) <= set("<>&"):
            redirected = True
        elif redirected or (not found[-1] and re.match(r"^\w+=", word)):
            redirected = False
        else:
            found[-1].append(word)
    outer = [_without_prefix(words) for words in found if words]
    return [words for words in outer if words] + [
        w for each in inner for w in simple_commands(each)
    ]


def _without_prefix(words: list[str]) -> list[str]:
    """What `sudo -u NAME`, `time`, `nohup` or a word of the shell's own runs."""
    while words and words[0] in BEFORE:
        words = words[3:] if words[1:2] == ["-u"] else words[1:]
    return words


def _click_problems(words: list[str], command: click.Command, name: str) -> list[str]:
    context: click.Context | None = None
    try:
        while True:
            context = command.make_context(name, list(words), parent=context)
            if not isinstance(command, click.Group):
                return []
            words = [*context._protected_args, *context.args]
            if not words:
                return [f"{context.command_path}: no command"]
            found = command.get_command(context, words[0])
            if found is None:
                return [f"{context.command_path}: no such command {words[0]!r}"]
            name, command, words = words[0], found, words[1:]
    except click.exceptions.Exit:
        return []
    except click.ClickException as error:
        return [f"{' '.join([name, *words])}: {error.format_message()}"]


def _pip_problems(words: list[str]) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    found = []
    for word in words:
        if match := _EXTRAS.match(word):
            extras = match[1].split(",")
            found += [f"no extra {extra!r}" for extra in extras if extra not in known]
        if word.endswith(".txt") and "/" in word and not (ROOT / word).is_file():
            found.append(f"no file {word}")
    return found


def _python_problems(words: list[str]) -> list[str]:
    words = [word for word in words if word != "-I"]
    if words[:1] == ["-m"]:
        try:
            module = importlib.import_module(words[1])
        except ModuleNotFoundError as error:
            return [f"python -m {words[1]}: {error}"]
        if isinstance(found := getattr(module, "main", None), click.Command):
            return _click_problems(words[2:], found, words[1])
    if words and words[0].endswith(".pyz"):
        return _script_problems(words[1:])
    return []


def _script_problems(words: list[str]) -> list[str]:
    from proguard_edge.bundle.script import _parser

    said: list[str] = []

    def error(self: argparse.ArgumentParser, message: str) -> None:
        said.append(f"{self.prog}: {message}")
        raise SystemExit(2)

    own, argparse.ArgumentParser.error = argparse.ArgumentParser.error, error  # type: ignore
    try:
        _parser().parse_args(words)
    except SystemExit:
        return said
    finally:
        argparse.ArgumentParser.error = own  # type: ignore[method-assign]
    return []
