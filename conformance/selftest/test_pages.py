"""Pages of docs/: reached from the first, made of sections that exist, with pictures that show what holds."""

from __future__ import annotations

import html
import re
import runpy
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # its types are a package that nothing else needs

from conformance.oracle.contract import Contract
from conformance.selftest.documents import BLOCK, PAGES, READMES, ROOT, blocks, inline, text_of
from conformance.selftest.every import every

DOCS = ROOT / "docs"
# sections with numbers that name no command, and why
EXEMPT = {
    DOCS / "world.md": "is made whole by the command in its first lines",
    ROOT / "examples" / "README.md": "counts classes of transformers, by hand",
}
PICTURES = DOCS / "pictures"
SCRIPT = runpy.run_path(str(DOCS / "pictures.py"))
INCLUDED = re.compile(
    r"^```\{(?:literal)?include\} (?P<file>\S+)\n(?::language: \w+\n)?"
    r':start-(?:after|at): "(?P<begin>[^"]+)"\n(?::end-before: "(?P<end>[^"]+)"\n)?```$',
    re.MULTILINE,
)
# what somebody measured or counted: with a unit, as a share, or with two digits behind the point
NUMBER = re.compile(
    r"\d[\d.,]*\s?(?:%|µs|ms|s|GB|MB|seconds|minutes|cases)\b|\d[\d.,]* of (?:the )?\d|\b\d+\.\d{2,}\b"
)
READERS: Mapping[str, Callable[[str], object]] = {
    "python": lambda text: compile(text, "a block", "exec"),
    "toml": tomllib.loads,
    "yaml": yaml.safe_load,
}
LISTED = re.compile(r"^```\{toctree\}\n(?::.*\n)*\n(?P<pages>(?:\S+\n)+)```$", re.MULTILINE)


def test_every_page_is_reached_from_the_first() -> None:
    """Its lists name each page of the folder once, and no file that is not there."""
    listed = [name for block in LISTED.finditer(text_of(DOCS / "index.md")) for name in block["pages"].split()]

    assert {page.stem for page in PAGES} - {"index"} == {name for name in listed if "/" not in name}
    assert len(listed) == len(set(listed))
    assert [] == [name for name in listed if not (DOCS / f"{name}.md").is_file()]


@every("page", PAGES)
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


def _without_command(text: str) -> list[str]:
    """Return the headings of sections that have a measured number, and neither show nor name a command."""
    # a comment in a block is no heading
    for block in BLOCK.finditer(text):
        shown = "\n".join(f"`{command}`" for command in blocks(block[0]))
        text = text.replace(block[0], f"{shown}\n{' '.join(block['lines'].split())}")
    sections = re.split(r"^(?=#+ )", text, flags=re.MULTILINE)
    return [part.partition("\n")[0] for part in sections if NUMBER.search(part) and not inline(part)]


@every("document", (*READMES, *PAGES))
def test_no_number_is_without_its_command(document: Path) -> None:
    """A section with a measured number has a command, which gives it; a document that is exempt needs to be."""
    assert (document in EXEMPT) == bool(_without_command(text_of(document)))


def test_a_number_without_a_command_is_noticed() -> None:
    """The check above can fail, on a number in a sentence or in a block."""
    text = "# A\n\nIt takes 25 µs.\n\n# B\n\n25 µs (`python -m x`)\n\n# C\n\n```text\nworst 0.307\n```\n"

    assert ["# A", "# C"] == _without_command(text)


@every("document", (*READMES, *PAGES))
def test_blocks_are_what_they_say(document: Path) -> None:
    """Blocks of Python compile, and those of TOML and YAML can be read."""
    for block in BLOCK.finditer(text_of(document)):
        READERS.get(block["kind"], str)(block["lines"])


def test_the_contract_of_the_page_is_one() -> None:
    """Its adapter can be made, and has the contracts that the page says."""
    (block,) = (block for block in BLOCK.finditer(text_of(DOCS / "contracts.md")) if block["kind"] == "python")
    names: dict[str, type] = {}
    exec(block["lines"], names)  # noqa: S102 - the page's own code
    adapter = names["MyNorms"]()

    assert Contract(frozenset({"normalised", "weighted"})) == adapter.contract("rms_norm")
    assert Contract(frozenset({"normalised"}), "serial") == adapter.contract("rms_norm_gated")


def test_the_workflow_of_the_page_gives_inputs_of_the_action() -> None:
    """The step that uses the action names inputs that it has, and the sentence below names all of them."""
    page = text_of(DOCS / "ci.md")
    workflow, *_ = (yaml.safe_load(block["lines"]) for block in BLOCK.finditer(page) if block["kind"] == "yaml")
    (step,) = (step for step in workflow["jobs"]["conform"]["steps"] if "normkernels" in step.get("uses", ""))
    inputs = yaml.safe_load(text_of(ROOT / "action.yml"))["inputs"]

    assert set(step["with"]) <= set(inputs)
    assert all(f"`{name}`" in page for name in inputs)
