"""Pages in Chromium, where it is installed: on a telephone and on a desk, in light and in dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conformance import report
from conformance.selftest.every import every
from conformance.selftest.report.test_figures import OLD, with_everything

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TELEPHONE, DESK = 360, 1250
READABLE = 4.5  # least contrast of text, as WCAG demands of it

MEASURE = (Path(__file__).parent / "measure.js").read_text(encoding="utf-8")
AROUND = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="said"></pre><script>
const said = {};
addEventListener("message", (event) => {
  said[event.data.name] = event.data;
  document.getElementById("said").textContent = JSON.stringify(said);
});
</script>"""


@pytest.fixture(name="around", scope="module")
def _around(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with others inside, each as wide as a screen."""
    folder = tmp_path_factory.mktemp("pages")
    failing = with_everything()
    rows = tuple(replace(row, counts={"passed": 1}) for row in failing.results)
    right = replace(failing, causes=(), failures=(), results=rows, header=replace(failing.header, seed=1))
    pages = {
        "report": report.page(failing),
        "compare": report.compared(
            replace(right, results=right.results[1:]), failing, ("a.json", "b.json"), "conform"
        ),
        "old": report.page(OLD),
    }
    frames = []
    for name, page in pages.items():
        for width in (TELEPHONE, DESK):
            file = folder / f"{name}_{width}.html"
            script = f"<script>const NAME = {json.dumps(file.stem)}, READABLE = {READABLE};{MEASURE}</script>"
            file.write_text(page.replace("<title>", f"{script}<title>", 1), encoding="utf-8")
            frames.append(f'<iframe src="{file.name}" width="{width}" height="800"></iframe>')
    (folder / "around.html").write_text(AROUND + "\n".join(frames), encoding="utf-8")
    return folder / "around.html"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@every("dark", [pytest.param(False, id="light"), pytest.param(True, id="dark")])
def test_pages_are_readable_on_every_screen(around: Path, *, dark: bool) -> None:
    """Nothing scrolls sideways, no link is lost, no script fails, text is readable, and code can be copied."""
    said = _said(around, dark=dark)

    assert {f"{name}_{width}" for name in ("report", "compare", "old") for width in (TELEPHONE, DESK)} == set(said)
    for name, found in said.items():
        assert {"wide": 0, "wrong": [], "lost": [], "twice": [], "faint": [], "buttons": 0} == {
            part: found[part] for part in ("wide", "wrong", "lost", "twice", "faint", "buttons")
        }, name
        assert found["dark"] is dark
        assert found["code"] or name.startswith("old")


def _said(page: Path, *, dark: bool) -> dict[str, Any]:
    """Return what the pages say of themselves; nothing may reach Chromium's console."""
    assert CHROMIUM is not None
    ran = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={page.parent / 'profile'}",
            f"--blink-settings=preferredColorScheme={int(not dark)}",
            "--virtual-time-budget=5000",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert [] == [line for line in ran.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r'<pre id="said">(.*?)</pre>', ran.stdout, re.DOTALL)
    assert found is not None, ran.stdout[:500]
    said: dict[str, Any] = json.loads(html.unescape(found[1]))
    return said
