"""Rules of the tree: names, docstrings, fixtures and forbidden text."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Folders of data: each has a README.md with a row for every file.
DATA = (ROOT / "fixtures", ROOT / "reports")

# Names that say nothing about a file's contents.
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc"}
# A directory of a particular machine. URLs do not match: they have a host before the slash.
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|Users|work|tmp|opt|mnt|private|workspace)/[\w.]")
# A line of the table in such a README.md: file, origin, checksum.
ROW = re.compile(r"^\| `(?P<file>[^`]+)` \| (?P<origin>[^|]+) \| `(?P<sha256>[0-9a-f]{64})` \|$", re.MULTILINE)


def _files() -> list[Path]:
    """Return the files that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - the user's git
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted(ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file())


def _data(folder: Path) -> dict[str, Path]:
    """Return every file of a folder by its name in the folder's README.md."""
    files = (f for f in _files() if f.is_relative_to(folder) and f != folder / "README.md")
    return {f.relative_to(folder).as_posix(): f for f in files}


def _listed(folder: Path) -> dict[str, str]:
    """Return the checksums in the README.md of a folder."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return {row["file"]: row["sha256"] for row in ROW.finditer(text)}


def _named_paths(text: str) -> list[str]:
    # a line end that JSON escapes ends in a letter, which would hide the path behind it
    return [line for line in text.splitlines() if MACHINE_PATH.search(line.replace("\\n", " "))]


FILES = _files()
PYTHON = [f for f in FILES if f.suffix == ".py"]


def test_every_file_is_called_what_it_holds() -> None:
    """No file has a catch-all name."""
    assert [] == [str(f.relative_to(ROOT)) for f in FILES if f.stem in NAMELESS]


def test_every_module_has_a_docstring() -> None:
    """The first statement in a file describes it."""
    silent = [f for f in PYTHON if not ast.get_docstring(ast.parse(f.read_text(encoding="utf-8")))]

    assert [] == [str(f.relative_to(ROOT)) for f in silent]


@pytest.mark.parametrize("folder", DATA, ids=lambda folder: folder.name)
def test_data_are_data(folder: Path) -> None:
    """No file under fixtures or reports can be imported or run."""
    assert [] == [name for name, file in _data(folder).items() if file.suffix in {".py", ".sh"}]


@pytest.mark.parametrize("folder", DATA, ids=lambda folder: folder.name)
def test_every_file_of_data_is_listed_with_its_checksum(folder: Path) -> None:
    """The folder's README.md has a row for exactly every file; the right row is printed for a wrong one."""
    is_ = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in _data(folder).items()}
    listed = _listed(folder)
    wrong = [f"| `{name}` | <origin> | `{sha}` |" for name, sha in is_.items() if listed.get(name) != sha]

    assert "" == "\n".join(wrong), f"rows to write into {folder.name}/README.md"
    assert set() == set(listed) - set(is_), "rows without a file"


def test_no_file_names_a_path_of_a_machine() -> None:
    """Committed text reads the same on every machine."""
    named = {}
    for file in FILES:
        try:
            lines = _named_paths(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        if lines:
            named[str(file.relative_to(ROOT))] = lines

    assert {} == named


@pytest.mark.parametrize("folder", ["home", "root", "work", "tmp"])
def test_a_path_of_a_machine_is_noticed(folder: str) -> None:
    """The check above sees a path wherever it stands in a line, and leaves URLs alone."""
    path = f"/{folder}/someone/file.py"

    assert [f'open("{path}")'] == _named_paths(f'open("{path}")')
    assert [rf'{{"why": "E\n{path}"}}'] == _named_paths(rf'{{"why": "E\n{path}"}}')
    assert [] == _named_paths(f"https://example.org{path}")
