"""Run a Python block of a page: `python docpython.py FILE`. `await` may stand at its top level.

Names that a page leaves to its reader are here: KEY of the environment, `requests` of a few texts.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import sys
from pathlib import Path

from proguard_edge.request import Request


def main() -> None:
    """Exit code 0: the block ran to its end."""
    path = Path(sys.argv[1])
    code = compile(path.read_text("utf-8"), path.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = {
        "__name__": "__main__",
        "KEY": os.environ.get("KEY", ""),
        "TEXT": "How do I bake bread?",
        "requests": [Request(user="How do I bake bread?"), Request(user="Good morning")],
    }
    given = eval(code, names)
    if inspect.iscoroutine(given):
        asyncio.run(given)


if __name__ == "__main__":
    main()
