"""Make the pictures of a run, its terminal and its page: ``python docs/screenshots.py``.

The run is of the mistake in judge.md, by the command that follows it there, in a folder of its own. Needs
Chromium, and Pillow, which Matplotlib brings.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

from conformance.selftest.documents import blocks, changed, text_of

DOCS = Path(__file__).resolve().parent
FOLDER = DOCS / "pictures"
TERMINAL, PAGE = FOLDER / "terminal.svg", FOLDER / "page.png"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLUMNS, WINDOW, COLOURS = 100, "1100,1860", 48
# rich names fonts of another site, which a picture in a repository cannot load
FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


def main() -> None:
    """Run the command of the page, and draw what it shows."""
    page = text_of(DOCS / "judge.md")
    command, *_ = blocks(page[page.index("```diff") :])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _ran(folder, "conform init my_adapter.py")
        adapter = folder / "my_adapter.py"
        adapter.write_text(changed(page, text_of(adapter)), encoding="utf-8")
        said = _ran(folder, command)
        FOLDER.mkdir(exist_ok=True)
        TERMINAL.write_text(terminal(f"$ {command}\n{said}"), encoding="utf-8")
        _photograph(folder / "build" / "conformance" / "report.html", PAGE)


def _ran(folder: Path, command: str) -> str:
    """Return what a command of the suite prints, in colours."""
    variables = {"PYTHONPATH": str(DOCS.parent), "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)}
    return subprocess.run(  # noqa: S603 - a command of a page here
        [sys.executable, "-m", "conformance", *shlex.split(command)[1:]],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    ).stdout


def terminal(said: str) -> str:
    """Return a picture of text with a terminal's colours."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(said.rstrip()))
    drawn = console.export_svg(title="conform", theme=DEFAULT_TERMINAL_THEME, unique_id="terminal")
    return "\n".join(line.rstrip() for line in FONT.sub("", drawn).splitlines()) + "\n"


def _photograph(page: Path, picture: Path) -> None:
    browser = next(found for name in BROWSERS if (found := shutil.which(name)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={WINDOW}"]
    subprocess.run(  # noqa: S603 - the user's browser
        [browser, *options, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True
    )
    with Image.open(picture) as taken:
        taken.convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    main()
