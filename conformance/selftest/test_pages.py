"""Pages of docs/: reached from the first, made of sections that exist, with pictures that show what holds."""

from __future__ import annotations

import html
import re
import runpy
from pathlib import Path

import pytest

from conformance.selftest.documents import PAGES, ROOT, blocks, text_of

DOCS = ROOT / "docs"
PICTURES = DOCS / "pictures"
SCRIPT = runpy.run_path(str(DOCS / "pictures.py"))
INCLUDED = re.compile(
    r"^```\{(?:literal)?include\} (?P<file>\S+)\n(?::language: \w+\n)?"
    r':start-(?:after|at): "(?P<begin>[^"]+)"\n(?::end-before: "(?P<end>[^"]+)"\n)?```$',
    re.MULTILINE,
)
LISTED = re.compile(r"^```\{toctree\}\n(?::.*\n)*\n(?P<pages>(?:\S+\n)+)```$", re.MULTILINE)


def test_every_page_is_reached_from_the_first() -> None:
    """Its lists name each page of the folder once, and no file that is not there."""
    listed = [name for block in LISTED.finditer(text_of(DOCS / "index.md")) for name in block["pages"].split()]

    assert {page.stem for page in PAGES} - {"index"} == {name for name in listed if "/" not in name}
    assert len(listed) == len(set(listed))
    assert [] == [name for name in listed if not (DOCS / f"{name}.md").is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_included_sections_exist(page: Path) -> None:
    """The lines between which a section stands are in its file once, in that order."""
    text = text_of(page)
    found = list(INCLUDED.finditer(text))
    assert text.count("include} ") == len(found), "an include has a beginning, and perhaps an end"

    for section in found:
        file = text_of(page.parent / section["file"])
        assert [1] * 2 == [file.count(section["begin"]), file.count(section["end"] or section["begin"])]
        assert section["end"] is None or section["end"] in file.partition(section["begin"])[2]


def test_pictures_are_drawn_from_the_tables() -> None:
    """Each is what ``docs/pictures.py`` draws now: another rounding point or contract is another picture."""
    figures = SCRIPT["figures"]()

    assert figures == {name: text_of(PICTURES / name) for name in figures}


def test_a_picture_has_a_filled_circle_for_each_rounding_point() -> None:
    """In each row the points of the contract are filled, and the store."""
    drawn, rows = SCRIPT["rounding"]("rms_norm_gated"), SCRIPT["named"]("rms_norm_gated")

    assert ["fp32", "hf", "two_step", "eager"] == list(rows)
    assert sum(len(rounds) + 1 for rounds in rows.values()) == drawn.count(f'fill="{SCRIPT["ROUNDED"]}"')


def test_pictures_of_a_run_show_the_command_of_the_page() -> None:
    """The terminal begins with the command that follows the change in judge.md; both pictures are small."""
    page = text_of(DOCS / "judge.md")
    command, *_ = blocks(page[page.index("```diff") :])
    shown = html.unescape(text_of(PICTURES / "terminal.svg")).replace("\N{NO-BREAK SPACE}", " ")

    assert f"$ {command}<" in shown
    assert "failed of" in shown
    assert all((PICTURES / name).stat().st_size < 200_000 for name in ("terminal.svg", "page.png"))
