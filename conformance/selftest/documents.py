"""The documents of the repository: commands that they show, and changes that they make to an adapter."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READMES = tuple(
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "conformance/README.md", "examples/README.md")
)
PAGES = tuple(sorted((ROOT / "docs").glob("*.md")))
FINDINGS = tuple(sorted((ROOT / "docs" / "findings").glob("*.md")))

PROGRAMS = ("conform", "make", "pip", "pytest", "python")
BLOCK = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<lines>.*?)^```", re.MULTILINE | re.DOTALL)
# a line of a block may be one of a list of YAML; a comment, or two spaces, end a command
LINE = re.compile(rf"^ *(?:- )?(?:run: )?(?P<command>(?:{'|'.join(PROGRAMS)}) .+?)(?: {{2,}}.*)?$", re.MULTILINE)
# in a line of text programs may stand with their folder, and variables before them
INLINE = re.compile(rf"`(?:\w+=\S+ )*(?:\.venv/bin/)?(?P<command>(?:{'|'.join(PROGRAMS)})\s[^`]+)`")


def text_of(path: Path) -> str:
    """Return the text of a document."""
    return path.read_text(encoding="utf-8")


def blocks(text: str) -> tuple[str, ...]:
    """Return the commands in the blocks of a document, in their order."""
    return tuple(line["command"] for block in BLOCK.finditer(text) for line in LINE.finditer(block["lines"]))


def inline(text: str) -> tuple[str, ...]:
    """Return the commands in the sentences of a document, each on one line and without a pipe."""
    found = (command["command"].partition("|")[0] for command in INLINE.finditer(BLOCK.sub("", text)))
    return tuple(" ".join(command.split()) for command in found)


def changed(text: str, adapter: str) -> str:
    """Return an adapter with the change that a document makes: the lines of its one block of ``diff``."""
    (lines,) = (
        block["lines"].splitlines(keepends=True) for block in BLOCK.finditer(text) if block["kind"] == "diff"
    )
    out, into = ("".join(line[1:] for line in lines if line.startswith(sign)) for sign in "-+")
    assert adapter.count(out) == 1, f"the adapter has these lines once: {out}"
    return adapter.replace(out, into)
