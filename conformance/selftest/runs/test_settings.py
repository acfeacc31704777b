"""Options in a project's file: which file, which keys and values, and what the command line makes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from conformance import cli
from conformance.adapter import UsageError
from conformance.runs import lanes, settings
from conformance.selftest.processes import judged

ALL = """
target = "mine.py"
profile = "ci"
op = ["rms_norm", "mrope"]
operations = "extra.py"
property = "values"
device = "cpu"
seed = 7
waivers = "known.toml"
import-limit = 5
report = "out"
"""
VALUES = {
    "target": "mine.py",
    "profile": "ci",
    "op": ["rms_norm", "mrope"],
    "operations": ["extra.py"],
    "property": ["values"],
    "device": "cpu",
    "seed": 7,
    "waivers": "known.toml",
    "import-limit": 5,
    "report": "out",
}


def _read(folder: Path, **files: str) -> settings.Settings:
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return settings.read(folder)


def test_every_key_is_read(tmp_path: Path) -> None:
    """All options of a run that are about more than one run, and the target; one value may stand for a list."""
    assert settings.Settings("conform.toml", VALUES) == _read(tmp_path, conform=ALL)
    assert set(VALUES) == set(settings.KEYS)


def test_a_project_may_keep_them_in_its_own_file(tmp_path: Path) -> None:
    """A ``pyproject.toml`` with the table counts, one without it does not."""
    table = "[project]\nname = 'mine'\n[tool.conform]\n"

    assert settings.Settings() == settings.read(tmp_path)
    assert settings.Settings() == _read(tmp_path, pyproject="[project]\nname = 'mine'")
    assert settings.Settings("pyproject.toml", VALUES) == _read(tmp_path, pyproject=table + ALL)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"conform": "profil = 'ci'"},
            "conform.toml: 'profil' is unknown, did you mean 'profile'? Known are target,",
        ),
        ({"conform": "chunk = 3"}, "conform.toml: 'chunk' is unknown"),
        ({"conform": "profile = 'fast'"}, "conform.toml: profile = 'fast', must be one of quick, ci, nightly"),
        ({"conform": "seed = -1"}, "conform.toml: seed = -1, must be at least 0"),
        ({"conform": "seed = '1'"}, "conform.toml: seed = '1', must be a whole number"),
        ({"conform": "seed = true"}, "conform.toml: seed = True, must be a whole number"),
        ({"conform": "import-limit = 0"}, "conform.toml: import-limit = 0, must be more than 0"),
        ({"conform": "import-limit = '1'"}, "conform.toml: import-limit = '1', must be a number"),
        ({"conform": "waivers = ['a.toml']"}, "conform.toml: waivers = ['a.toml'], must be text"),
        ({"conform": "op = ['mrope', 1]"}, "conform.toml: op = ['mrope', 1], must be text or a list of texts"),
        ({"conform": "op = "}, "conform.toml: is not TOML: "),
        (
            {"pyproject": "[tool.conform]\nops = 'mrope'"},
            "pyproject.toml: tool.conform: 'ops' is unknown, did you",
        ),
        ({"pyproject": "tool.conform = 1"}, "pyproject.toml: tool.conform = 1, must be a table"),
        ({"conform": "", "pyproject": "[tool.conform]"}, "keep them in one of the two"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_wrong_file_is_one_line(files: Mapping[str, str], said: str, tmp_path: Path) -> None:
    """The line names the file, the key, and the nearest known key or what is taken."""
    with pytest.raises(UsageError) as refused:
        _read(tmp_path, **files)

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_pytest_gets_what_its_command_line_lacks(tmp_path: Path) -> None:
    """Every value becomes an argument, lists one for each, unless its option is given; the file is named."""
    found = _read(tmp_path, conform="target = 'mine.py'\nop = ['rms_norm', 'mrope']\nseed = 7\nreport = 'out'")
    rest = ["--options-from", "conform.toml"]
    ops = ["--op", "rms_norm", "--op", "mrope"]

    assert ["--adapter", "mine.py", *ops, "--seed", "7", "--report", "out", *rest] == settings.missing(found, [])
    assert [*ops, *rest] == settings.missing(found, ["--adapter", "other.py", "--seed=1", "--report", "build"])
    assert [] == settings.missing(settings.Settings(), ["--seed", "1"])


def _given(command: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what a command is called with."""
    called: dict[str, Any] = {}
    monkeypatch.setattr(cli.cli.commands[command], "callback", lambda **given: called.update(given))
    cli.cli.main([*arguments], prog_name="conform", standalone_mode=False)
    return called


def test_a_run_without_arguments_is_the_file_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value reaches the run in the type that it has from the command line."""
    monkeypatch.chdir(tmp_path)
    _read(tmp_path, conform=ALL)
    from_file = _given("run", "run", monkeypatch=monkeypatch)
    line = [str(part) for name, value in VALUES.items() if name != "target" for part in _line(name, value)]
    from_line = _given("run", "--isolated", "run", "mine.py", *line, monkeypatch=monkeypatch)

    assert from_line == from_file
    assert ("mine.py", ("rms_norm", "mrope"), Path("out")) == (
        from_file["target"],
        from_file["operations"],
        from_file["directory"],
    )


def _line(name: str, value: object) -> list[object]:
    return [part for each in (value if isinstance(value, list) else [value]) for part in (f"--{name}", each)]


def test_the_command_line_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its values replace those of the file, lists included; everything else stays."""
    monkeypatch.chdir(tmp_path)
    _read(tmp_path, conform=ALL)
    line = ["run", "other.py", "--op", "rope", "--seed", "1"]
    given = _given("run", *line, monkeypatch=monkeypatch)

    assert ("other.py", ("rope",), 1) == (given["target"], given["operations"], given["seed"])
    assert ("ci", ("values",)) == (given["profile"], given["properties"])


def test_an_isolated_command_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything has the suite's own default."""
    monkeypatch.chdir(tmp_path)
    _read(tmp_path, conform=ALL)
    given = _given("run", "--isolated", "run", monkeypatch=monkeypatch)

    assert ("normkernels", "quick", (), 0) == (
        given["target"],
        given["profile"],
        given["operations"],
        given["seed"],
    )


def test_other_commands_take_what_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay shows every property of a case; reports of others are compared whatever the file says."""
    monkeypatch.chdir(tmp_path)
    _read(tmp_path, conform=ALL)
    replayed = _given("replay", "replay", "0123456789", monkeypatch=monkeypatch)
    surveyed = _given("survey", "survey", monkeypatch=monkeypatch)

    assert ("mine.py", (), ("extra.py",)) == (replayed["target"], replayed["properties"], replayed["places"])
    assert ("mine.py", "ci", ("rms_norm", "mrope")) == (
        surveyed["target"],
        surveyed["profile"],
        surveyed["operations"],
    )
    (tmp_path / "conform.toml").write_text("seed = ", encoding="utf-8")
    assert {"a", "b", "html"} == _given("compare", "compare", ".", ".", monkeypatch=monkeypatch).keys()
    with pytest.raises(UsageError, match="is not TOML"):
        _given("list", "list", monkeypatch=monkeypatch)


def test_an_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are checked once operations are known: the line says where to look."""
    monkeypatch.chdir(tmp_path)
    _read(tmp_path, conform="op = 'gelu'")
    with pytest.raises(
        UsageError, match=r"--op: 'gelu' is unknown, .* \(options are also read from conform.toml\)$"
    ):
        cli.cli.main(["run", "native"], prog_name="conform", standalone_mode=False)
    with pytest.raises(click.UsageError, match="No such option"):
        cli.cli.main(["run", "--fast"], prog_name="conform", standalone_mode=False)


def test_the_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    """``conform run --help`` says that there is a file, and what may stand in it."""
    with pytest.raises(SystemExit):
        cli.cli(["run", "--help"], prog_name="conform")
    shown = " ".join(capsys.readouterr().out.partition("Options:")[0].split())
    _, _, keys = shown.partition("the keys are ")

    assert "conform.toml" in shown
    assert set(settings.KEYS) == set(keys.rstrip(". ").replace(" and ", ", ").split(", "))


def test_runs_of_known_adapters_do_not_take_a_project_s_options(tmp_path: Path) -> None:
    """``conform world`` judges others, in a folder that may have a file."""
    (lane,) = lanes.planned(["native"], ["cpu"], [], tmp_path, {})

    assert ["--isolated", "run", "native"] == lane.command[3:6]


def test_a_report_names_the_file(tmp_path: Path) -> None:
    """A third party's folder needs no argument; header and summary say which file was read, by its name."""
    (tmp_path / "mine.py").write_text(cli.init.SKELETON, encoding="utf-8")
    options = "target = 'mine.py'\nop = 'rms_norm_gated'\nproperty = 'empty'\nreport = 'out'\nseed = 3\n"
    _read(tmp_path, pyproject=f"[tool.conform]\n{options}")
    run = judged(tmp_path, "-m", "conformance", "run", "-n", "1", "--seed", "4")
    made = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))

    assert 0 == run.returncode, run.stdout + run.stderr
    assert ("mynorms", 4, "pyproject.toml") == (
        made["header"]["adapter"]["name"],
        made["header"]["seed"],
        made["header"]["options_from"],
    )
    assert {"empty"} == {row["property"] for row in made["results"]}
    assert "options from pyproject.toml" in run.stdout
