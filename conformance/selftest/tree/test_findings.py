"""Findings in other packages: text and script belong together, and a script needs torch and that package alone."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

FINDINGS = Path(__file__).resolve().parents[3] / "docs" / "findings"
TEXTS = sorted(FINDINGS.glob("[0-9]*.md"), key=lambda file: int(file.stem))
# Modules by the distribution that has them; torch and Triton are there in any case.
MODULES = {
    "mamba_ssm": {"mamba_ssm"},
    "fla-core": {"fla"},
    "xformers": {"xformers"},
    "liger-kernel": {"liger_kernel"},
    "transformers": {"transformers"},
    "unsloth": {"unsloth"},
    "torchnorm": {"torchnorm"},
    "quack-kernels": {"quack"},
    "vllm": {"vllm"},
    "torch": set[str](),
    "triton": set[str](),
}
PACKAGE = re.compile(r"^- Package: (.+)$", re.MULTILINE)
SECTIONS = ["## Smallest case", "## Cause"]


def _packages(text: str) -> dict[str, str]:
    """Return the versions that a finding names, by distribution."""
    (named,) = PACKAGE.findall(text)
    return dict(package.split(" ") for package in named.split(", "))


def _script(text: Path) -> ast.Module:
    return ast.parse(text.with_suffix(".py").read_text(encoding="utf-8"))


def _imported(script: ast.Module) -> set[str]:
    """Return the outermost modules that a script imports."""
    names = [alias.name for node in ast.walk(script) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(script) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def test_the_findings_are_numbered() -> None:
    """There are at least eight, without a gap, each with a script, and the table has a row for each."""
    table = (FINDINGS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\d+)\]\(\1\.md\) \|", table, re.MULTILINE)

    assert [str(number) for number in range(1, max(8, len(TEXTS)) + 1)] == [text.stem for text in TEXTS] == rows
    assert {text.stem for text in TEXTS} == {script.stem for script in FINDINGS.glob("*.py")}


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_a_finding_can_be_sent(text: Path) -> None:
    """It names version, place and upstream's issue or that none was found, the smallest case and the cause."""
    said = text.read_text(encoding="utf-8")

    assert re.match(rf"# {text.stem}\. \S", said)
    assert all(re.search(rf"^- {name}: \S", said, re.MULTILINE) for name in ("Where", "Seen in"))
    assert SECTIONS == re.findall(r"^## .+$", said, re.MULTILINE)
    assert f"[{text.stem}.py]({text.stem}.py)" in said
    assert all(re.fullmatch(r"\d+(\.\w+)+", version) for version in _packages(said).values())
    assert re.search(r"^- Upstream: (?:.*<https://\S+>|none found)", said, re.MULTILINE)


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_a_script_says_and_imports_what_the_finding_is_about(text: Path) -> None:
    """It parses, begins with the same versions, ends with a status, and imports no other package."""
    script, packages = _script(text), _packages(text.read_text(encoding="utf-8"))
    begins = (ast.get_docstring(script) or "").partition(":")[0]
    theirs = set().union(*(MODULES[package] for package in packages))
    last = script.body[-1]

    assert [f"{name} {version}" for name, version in packages.items()] == begins.split(", ")
    assert set() == _imported(script) - theirs - {"torch", "triton"} - sys.stdlib_module_names
    assert isinstance(last, ast.Expr)
    assert ast.unparse(last).startswith("sys.exit(")


def test_another_package_is_noticed() -> None:
    """The check above can fail: the suite itself would be another package."""
    assert {"conformance", "torch"} == _imported(ast.parse("import torch\nfrom conformance.cli import main"))
