"""The GitHub action: its steps, run as a runner would, on an adapter that is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # its types are a package that nothing else needs

from conformance import cli
from conformance.runs.options import NAMED
from conformance.selftest.processes import OWN, ROOT

ACTION: Mapping[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
WRONG = cli.init.SKELETON.replace(" * act.to(y.device)", "")


def _step(name: str) -> Mapping[str, Any]:
    (found,) = (step for step in ACTION["runs"]["steps"] if step["name"] == name)
    return dict(found)


def _environment(folder: Path, step: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, str]:
    """Return a runner's variables, with the commands of ``folder``/bin in front of all others."""
    values = {name: inputs.get(name, given["default"]) for name, given in ACTION["inputs"].items()}
    given = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: values[found[1]], text)
        for name, text in step.get("env", {}).items()
    }
    outside = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    runner = {"GITHUB_STEP_SUMMARY": str(folder / "summary.md"), "GITHUB_ACTION_PATH": "checkout of it"}
    path = {"PATH": f"{folder / 'bin'}:{outside['PATH']}", "PYTHONPATH": str(ROOT)}
    return {**outside, **runner, **path, **given}


def _ran(folder: Path, name: str, command: str, script: str, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run a step with a command of its own: a script that stands for what is installed."""
    (folder / "bin").mkdir()
    (folder / "bin" / command).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "bin" / command).chmod(0o755)
    step = _step(name)
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],  # noqa: S607 - the user's bash
        cwd=folder,
        env=_environment(folder, step, inputs),
        capture_output=True,
        text=True,
        check=False,
    )


SAYS = 'for each in "$@"; do echo "<$each>"; done'


def test_the_action_installs_its_own_checkout(tmp_path: Path) -> None:
    """The version that a workflow names is the version that judges."""
    installed = _ran(tmp_path, "Install", "python", SAYS)

    assert ["<-m>", "<pip>", "<install>", "<checkout of it[conformance]>"] == installed.stdout.splitlines()


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ({}, "run|--report|build/conformance"),
        (
            {
                "target": "my file.py",
                "profile": "ci",
                "op": "rope mrope",
                "waivers": "a b.toml",
                "args": "-x -q",
            },
            "run|my file.py|--report|build/conformance|--profile|ci|--waivers|a b.toml|--op|rope|--op|mrope|-x|-q",
        ),
        ({"target": '$(id); "', "op": "*"}, 'run|$(id); "|--report|build/conformance|--op|*'),
    ],
)
def test_inputs_are_arguments(inputs: dict[str, str], line: str, tmp_path: Path) -> None:
    """Each as it stands, and nothing where there is none: then the project's file decides."""
    judged = _ran(tmp_path, "Judge", "conform", f"{SAYS}; exit 2", **inputs)

    assert [f"<{argument}>" for argument in line.split("|")] == judged.stdout.splitlines()
    assert 2 == judged.returncode


def test_failures_are_annotated_and_fail_the_step(tmp_path: Path) -> None:
    """The step prints annotations of the adapter's method, writes the summary, and ends as the run did."""
    (tmp_path / "mine.py").write_text(WRONG, encoding="utf-8")
    judge = {"target": "mine.py", "op": "rms_norm_gated", "args": "--property values -n 1", "report": "out"}
    judged = _ran(tmp_path, "Judge", "conform", f'exec {sys.executable} -m conformance "$@"', **judge)
    errors = [line for line in judged.stdout.splitlines() if line.startswith("::error ")]
    line = next(n for n, text in enumerate(WRONG.splitlines(), start=1) if "def rms_norm_gated" in text)

    assert 1 == judged.returncode, judged.stdout + judged.stderr
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["causes"]
    assert "::error title=conform::mynorms: not every property holds" in errors[0]
    assert errors[1].startswith(f"::error file=mine.py,line={line},title=1. wrong values")
    assert "### rms_norm_gated\n" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_the_report_is_kept_whatever_came_out() -> None:
    """The artifact is the folder that the step before wrote to, under a name of the job's own."""
    kept = _step("Keep the report")

    assert "!cancelled()" in kept["if"]
    assert kept["uses"].startswith("actions/upload-artifact@v")
    assert "${{ inputs.report }}" == kept["with"]["path"] == _step("Judge")["env"]["REPORT"]
    assert NAMED["report"].default == ACTION["inputs"]["report"]["default"]
    assert {"github.job", "strategy.job-index"} <= set(re.findall(r"[\w.-]+", kept["with"]["name"]))
