"""Waivers of known adapters: each names a finding, and applies to the version that the finding names alone."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

from conformance.adapter import KNOWN, find
from conformance.runs.waivers import Run, load

FINDINGS = Path(__file__).resolve().parents[3] / "docs" / "findings"
FILES = sorted((FINDINGS / "waivers").glob("*.toml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_waiver_is_of_a_finding(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is called as the adapter; a reason begins with the finding, whose package and version it names."""
    package = find(file.stem).package
    for waiver in load(file, Run("cpu", "quick")).every:
        finding = re.match(r"finding (\d+): ", waiver.reason)
        ((name, versions),) = waiver.where.version
        assert finding
        said = (FINDINGS / f"{finding[1]}.md").read_text(encoding="utf-8")
        (device,) = waiver.where.device or ("cpu",)
        version = re.search(rf"^- Package: {re.escape(package)} (\S+)$", said, re.MULTILINE)

        assert name == package
        assert version
        assert versions.contains(version[1])
        for installed, held in ((version[1], True), ("0.0.1", False)):
            monkeypatch.setattr(metadata, "version", lambda _, installed=installed: installed)
            assert held == waiver.where.shows_in(Run(device, "quick"))


def test_the_files_are_of_known_adapters() -> None:
    """A file with another name would never be used."""
    assert {file.stem for file in FILES} <= set(KNOWN)
