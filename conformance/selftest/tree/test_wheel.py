"""The wheel, as third parties get it, judges their file far away from this checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# This norm is right in every contract: it computes in float64 and rounds once.
RIGHT = '''\
"""Somebody's gated RMSNorm."""

import torch

from conformance import Adapter, Declined


class TheirNorm(Adapter):
    """A third party's adapter, as the README shows one."""

    name = "theirs"
    contracts = {"rms_norm_gated": "fp32"}

    def rms_norm_gated(self, x, gate, weight, *, eps, group_size, norm_before_gate, activation):
        """Normalise, weigh, gate."""
        if group_size is not None:
            raise Declined("no groups")
        y, act = x.double(), 1.0
        if gate is not None:
            act = gate.double().sigmoid() * (1.0 if activation == "sigmoid" else gate.double())
        if not norm_before_gate:
            y, act = y * act, 1.0
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight.double()
        return (y * act).to(x.dtype).contiguous()
'''
WRONG = RIGHT.replace("return (y * act)", "return y")
RUN = ("run", "theirs.py", "--op", "rms_norm_gated", "--property", "values", "--report", "report", "-n")


def _environment() -> dict[str, str]:
    """Return our environment without variables that lead back here or steer a nested pytest."""
    steering = ("PYTHON", "PYTEST", "COV_", "TRITON_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(steering)}


def _run(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel, built from the current sources."""
    dist = tmp_path_factory.mktemp("dist")
    built = _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, ROOT], cwd=dist)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = dist.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def outside(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new environment with the wheel in it; to save half a gigabyte it sees this one's dependencies.

    A path in a ``.pth`` file is only searched: the ``.pth`` file by which an editable install would lead to
    the checkout is not read.
    """
    home = tmp_path_factory.mktemp("outside")
    venv.create(home / "venv", with_pip=False, symlinks=True)
    python = home / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    installed = _run([*pip, "install", "--no-deps", "--no-index", wheel], cwd=home)
    assert installed.returncode == 0, installed.stdout + installed.stderr

    where = _run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], cwd=home).stdout
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(where.strip()) / "dependencies.pth").write_text("\n".join(sorted(dependencies)), encoding="utf-8")
    return home


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _sources(package: str, *but: str) -> set[str]:
    """Return the files of a package in the checkout, without some of its folders."""
    return {
        f.relative_to(ROOT).as_posix()
        for f in (ROOT / package).rglob("*")
        if f.is_file() and "__pycache__" not in f.parts and f.relative_to(ROOT / package).parts[0] not in but
    }


def test_the_wheel_holds_both_packages_whole(wheel: Path) -> None:
    """The wheel has every file of normkernels and the suite, type markers included, and no test of ours."""
    packages = _sources("normkernels") | _sources("conformance", "package", "selftest")
    held = {n for n in _names(wheel) if n.startswith(("normkernels/", "conformance/"))}

    assert {"normkernels/py.typed", "conformance/py.typed"} <= held
    assert packages == {n for n in held if not n.startswith("conformance/fixtures/")}


def test_the_wheel_holds_the_fixtures_that_a_run_reads(wheel: Path) -> None:
    """Models, cases and golden values are inside the suite; reports are left out."""
    held = {n.removeprefix("conformance/") for n in _names(wheel) if n.startswith("conformance/fixtures/")}

    assert _sources("fixtures") == held
    assert not [n for n in _names(wheel) if "reports/" in n]


def test_the_wheel_declares_its_names(wheel: Path) -> None:
    """The wheel has the command, the extra, pytest's way in, and only the packages at its top."""
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {n.partition("/")[0] for n in archive.namelist() if ".dist-info/" in n}
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())

    assert "conform = conformance.cli:main" in entry_points
    assert "[pytest11]\nconformance = conformance.suite.asked\n" in entry_points
    assert "conformance" in metadata.get_all("Provides-Extra", [])
    assert {"normkernels", "conformance", info} == {n.partition("/")[0] for n in _names(wheel)}


def test_the_installed_packages_are_not_this_checkout(outside: Path) -> None:
    """Code and fixtures come from the wheel in the new environment."""
    ask = (
        "import conformance.cases.corpus as c, normkernels; print(c.__file__, c.fixtures(), normkernels.__file__)"
    )
    answer = _run([outside / "venv" / "bin" / "python", "-c", ask], cwd=outside)

    assert answer.returncode == 0, answer.stderr
    assert all(Path(path).is_relative_to(outside) for path in answer.stdout.split())


@pytest.mark.parametrize(
    ("source", "workers", "code"), [(RIGHT, 2, 0), (WRONG, 1, 1)], ids=["right", "forgets_gate"]
)
def test_a_third_party_file_is_judged_outside(
    outside: Path, tmp_path: Path, source: str, workers: int, code: int
) -> None:
    """A right implementation passes, and one that ignores its gate fails, with a script that shows it."""
    (tmp_path / "theirs.py").write_text(source, encoding="utf-8")
    run = _run([outside / "venv" / "bin" / "conform", *RUN, str(workers)], cwd=tmp_path)

    assert code == run.returncode, run.stdout + run.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["footer"]
    assert bool(code) == bool(report["failures"])
    for failure in report["failures"][:1]:
        shown = _run([outside / "venv" / "bin" / "python", failure["reproducer"]], cwd=tmp_path)
        assert code == shown.returncode, shown.stdout + shown.stderr


def test_pytest_judges_where_the_suite_is_asked_for(outside: Path, tmp_path: Path) -> None:
    """From an empty folder the name of the suite is enough: no plugin is named."""
    (tmp_path / "theirs.py").write_text(WRONG, encoding="utf-8")
    pytest: list[str | Path] = [
        outside / "venv" / "bin" / "python",
        "-m",
        "pytest",
        "--pyargs",
        "conformance.suite",
    ]
    judged = _run([*pytest, "--adapter", "theirs.py", "-q", *RUN[2:-1]], cwd=tmp_path)

    assert 1 == judged.returncode, judged.stdout + judged.stderr
    assert json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))["failures"]


THEIR_OPTIONS = """
def pytest_addoption(parser):
    for name in ("--adapter", "--profile", "--op", "--report", "--seed"):
        parser.addoption(name, default="theirs")
"""
THEIR_TEST = """
import sys

def test_nothing_is_there_that_was_not_asked_for(pytestconfig):
    assert "ours" == pytestconfig.getoption("adapter")
    assert "theirs" == pytestconfig.getoption("profile")
    assert pytestconfig.pluginmanager.has_plugin("conformance")
    assert not {"torch", "triton", "hypothesis", "conformance.plugin", "conformance.runs"} & set(sys.modules)
"""


def test_other_projects_tests_are_left_alone(outside: Path, tmp_path: Path) -> None:
    """Their options may have the same names as the suite's, nothing warns, and nothing large is imported."""
    (tmp_path / "conftest.py").write_text(THEIR_OPTIONS, encoding="utf-8")
    (tmp_path / "test_theirs.py").write_text(THEIR_TEST, encoding="utf-8")
    # of all plugins that are installed here, ours alone
    others = [part for name in ("hypothesispytest", "anyio", "xdist") for part in ("-p", f"no:{name}")]
    pytest: list[str | Path] = [outside / "venv" / "bin" / "python", "-m", "pytest", "-q", "-W", "error", *others]
    tested = _run([*pytest, "--adapter", "ours"], cwd=tmp_path)

    assert 0 == tested.returncode, tested.stdout + tested.stderr
    assert "warning" not in tested.stdout
