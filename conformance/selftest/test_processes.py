"""Processes of commands: what is there when a command begins, and how it ends."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from conformance.runs.host import gpus
from conformance.selftest.processes import judged, ran, started

SAYS = """
import os, sys
print("triton" in sys.modules, "normkernels" in sys.modules, os.environ.get("TRITON_INTERPRET"), os.getppid())
print(os.environ["MINE"], *sys.argv[1:], file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def test_a_command_begins_as_python_does(folder: Path) -> None:
    """Nothing is imported or set but what was asked for; arguments, output and exit status are the command's."""
    ended = ran(folder, "-c", SAYS, "a", "b c", MINE="mine")

    assert ended.stdout.startswith("False False None ")
    assert (3, "mine a b c\n") == (ended.returncode, ended.stderr)


@pytest.mark.skipif(bool(gpus()), reason="needs a machine without a GPU: with one nothing is imported before")
def test_a_command_that_judges_finds_triton(folder: Path) -> None:
    """One process forks such commands one after the other, none of which finds what another one left."""
    first = judged(folder, "-c", f"import normkernels\n{SAYS}", MINE="one")
    second = judged(folder, "-c", SAYS, MINE="two")
    parents = {ended.stdout.split()[-1] for ended in (first, second)}

    assert first.stdout.startswith("True True None ")
    assert second.stdout.startswith("True False None ")
    assert 1 == len(parents)
    assert [(3, "one\n"), (3, "two\n")] == [(ended.returncode, ended.stderr) for ended in (first, second)]


def test_a_command_that_hangs_is_killed(folder: Path) -> None:
    """The time that is left decides, and the next command runs."""
    command = started(folder, "-c", "import time; time.sleep(600)", ready=True)
    with pytest.raises(subprocess.TimeoutExpired):
        command.ended(timeout=0.2)

    assert -signal.SIGKILL == command.ended(timeout=60).returncode
    assert 3 == judged(folder, "-c", SAYS, MINE="mine").returncode


RUNS = """
import subprocess, sys
given = {"cwd": "..", "capture_output": True, "text": True, "check": False}
done = subprocess.run([sys.executable, "-c", sys.argv[1], "a"], **given)
print(done.stdout, done.stderr, done.returncode)
"""


@pytest.mark.skipif(bool(gpus()), reason="needs a machine without a GPU: with one nothing is imported before")
@pytest.mark.parametrize(("nested", "there"), [(True, "True False None"), (False, "False False None")])
def test_commands_of_a_command_are_forked_with_triton(folder: Path, there: str, *, nested: bool) -> None:
    """They have their own folder, arguments, output and exit status, as where Python is started for them."""
    ended = judged(folder, "-c", RUNS, f"import os; print(os.getcwd()){SAYS}", nested=nested, MINE="mine")
    at, first, *rest = ended.stdout.splitlines()

    assert first.startswith(there), ended.stdout + ended.stderr
    assert (str(folder.parent), ["mine", "a", "3"]) == (at, " ".join(rest).split())
