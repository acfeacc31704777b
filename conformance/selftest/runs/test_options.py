"""The command in a report judges what the report's run judged."""

from __future__ import annotations

import shlex
from pathlib import Path

from click.testing import CliRunner

from conformance.cli import cli
from conformance.runs.options import OPTIONS, command

PLAIN: dict[str, object] = {
    option.name.replace("-", "_"): [] if option.many else option.default for option in OPTIONS
}


def test_options_that_were_given_are_in_the_command() -> None:
    """A default is left out, and so is what no verdict depends on."""
    given = {**PLAIN, "op": ["rms_norm", "softmax"], "seed": 3, "profile": "ci", "report": Path("x"), "chunk": 0}

    assert "conform run normkernels" == command("normkernels", PLAIN)
    assert ["conform", "run", "a b.py", "--op", "rms_norm", "--op", "softmax", "--profile", "ci"] == shlex.split(
        command("a b.py", {**given, "chunk": None, "seed": 0})
    )
    assert command("mine.py", given).endswith("--profile ci --seed 3 --chunk 0")


def test_a_run_of_what_failed_before_has_no_command() -> None:
    """No command line says what failed before."""
    assert "" == command("mine.py", {**PLAIN, "again": Path("again.json")})


def test_the_command_line_takes_the_command() -> None:
    """Every option that may be in the command is one of ``conform run``."""
    shown = CliRunner().invoke(cli, ["run", "--help"]).output

    assert all(option.flag in shown for option in OPTIONS)
