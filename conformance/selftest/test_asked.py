"""The suite's way into pytest: it is asked for by its name, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conformance import cli
from conformance.selftest.processes import judged, ran
from conformance.suite.asked import asked

# whether or not this checkout is installed, and pytest finds the module by itself
QUIET = ("-m", "pytest", "-q", "--disable-plugin-autoload", "-p", "conformance.suite.asked")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--pyargs", "conformance.suite"), True),
        (("--pyargs", "conformance.suite.test_items", "-x"), True),
        (("--pyargs", "conformance.suite::test_item"), True),
        ((), False),
        (("--adapter", "mine.py"), False),
        (("tests", "-k", "conformance"), False),
        (("--pyargs", "conformance.suites"), False),
    ],
)
def test_the_name_of_the_suite_asks_for_it(arguments: tuple[str, ...], *, expected: bool) -> None:
    """Options of other projects may be called as the suite's are."""
    assert expected == asked(arguments)


def test_options_are_there_where_the_suite_is_asked_for(tmp_path: Path) -> None:
    """They are read as any others, named in the help, and unknown in other runs."""
    without = ran(tmp_path, *QUIET, "--adapter", "mine.py")
    shown = ran(tmp_path, *QUIET, "--pyargs", "conformance.suite", "--help")
    refused = ran(tmp_path, *QUIET, "--pyargs", "conformance.suite", "--seed", "-1")
    twice = ran(tmp_path, *QUIET, "-p", "conformance.plugin", "--pyargs", "conformance.suite", "--seed", "-1")

    assert "unrecognized arguments: --adapter" in without.stderr
    assert "--import-limit" in shown.stdout
    assert "-1, must be at least 0" in refused.stderr
    assert "-1, must be at least 0" in twice.stderr


JUDGE = (*QUIET, "--pyargs", "conformance.suite")
OPTIONS = "target = 'mine.py'\nop = 'rms_norm_gated'\nproperty = 'empty'\nreport = 'out'\nseed = 3\n"


@pytest.mark.parametrize("more", [(), ("-p", "xdist.plugin", "-n", "1")], ids=["one process", "xdist"])
def test_the_project_s_file_has_what_the_command_line_lacks(tmp_path: Path, more: tuple[str, ...]) -> None:
    """The options of ``conform.toml`` decide, those of the command line win, and the report names the file."""
    (tmp_path / "mine.py").write_text(cli.init.SKELETON, encoding="utf-8")
    (tmp_path / "conform.toml").write_text(OPTIONS, encoding="utf-8")
    ended = judged(tmp_path, *JUDGE, *more, "--seed", "4", "--op=rms_norm_gated")
    made = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    header = made["header"]

    assert pytest.ExitCode.OK == ended.returncode, ended.stdout + ended.stderr
    assert ("mynorms", 4, "conform.toml") == (header["adapter"]["name"], header["seed"], header["options_from"])
    assert {("rms_norm_gated", "empty")} == {(row["operation"], row["property"]) for row in made["results"]}


def test_a_wrong_file_is_an_error_of_usage(tmp_path: Path) -> None:
    """The message is that of ``conform``; a run that does not ask for the suite does not read the file."""
    (tmp_path / "conform.toml").write_text("profil = 'ci'", encoding="utf-8")
    refused = ran(tmp_path, *JUDGE)
    other = ran(tmp_path, *QUIET)

    assert pytest.ExitCode.USAGE_ERROR == refused.returncode
    assert "conform.toml: 'profil' is unknown, did you mean 'profile'?" in refused.stderr
    assert pytest.ExitCode.NO_TESTS_COLLECTED == other.returncode


def test_an_adapter_is_judged_without_naming_a_plugin(tmp_path: Path) -> None:
    """The name of the suite is enough for its adapter to be imported, and refused, as in any run."""
    (tmp_path / "wrong.py").write_text("1 / 0", encoding="utf-8")
    refused = judged(tmp_path, *QUIET, "--pyargs", "conformance.suite", "--adapter", "wrong.py")

    assert pytest.ExitCode.INTERRUPTED == refused.returncode, refused.stdout + refused.stderr
    assert "wrong.py: cannot be loaded: ZeroDivisionError" in refused.stdout
