"""Workers of pytest-xdist that are forked: with what was imported before, and otherwise as new Pythons."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conformance.runs import forkserver
from conformance.selftest.processes import Command, gone, judged, started

RUNS = """
import os, sys
from pathlib import Path
import pytest
from conformance.runs import forkserver

sys.modules["imported_before"] = sys
given = ["-q", "-p", "xdist.plugin", "--disable-plugin-autoload", "-p", "no:cacheprovider"]
with forkserver.workers(2) as options:
    os.environ["SET_LATER"] = "1"
    os.chdir("inner")
    status = pytest.main([*given, *options, *sys.argv[1:]])
left = [path.name for path in Path().glob("*.pid") if Path("/proc", path.stem).exists()]
print("after", left, os.getpid())
sys.exit(status)
"""
SEEN = """
import json, os, signal, sys, time
from pathlib import Path

def test_seen():
    found = ["imported_before" in sys.modules, os.environ.get("SET_LATER"), os.getcwd()]
    found += [os.environ["PYTEST_XDIST_WORKER_COUNT"], signal.getsignal(signal.SIGCHLD)]
    found += [signal.getsignal(signal.SIGINT) is signal.default_int_handler, os.getppid()]
    Path(f"seen-{os.environ['PYTEST_XDIST_WORKER']}").write_text(json.dumps(found))
    Path(f"{os.getpid()}.pid").touch()
    end = os._exit
    os._exit = lambda status: time.sleep(1) or end(status)
    print("to be shown with a failure")
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    # command's files are beside its folder
    folder = tmp_path / "a folder = here"
    (folder / "inner").mkdir(parents=True)
    return folder


def _ran(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "inner" / "test_it.py").write_text(test, encoding="utf-8")
    return judged(folder, "-c", RUNS, *options, "test_it.py")


def test_workers_have_what_was_imported(folder: Path) -> None:
    """Both are forked from one process, and see the folder and the environment as they are when they start."""
    ended = _ran(folder, SEEN, "--dist", "each")
    seen = [json.loads((folder / "inner" / f"seen-gw{number}").read_text(encoding="utf-8")) for number in range(2)]

    assert 0 == ended.returncode, ended.stdout + ended.stderr
    # workers have ended by then, and none of them went on with the code of this process
    assert 1 == ended.stdout.count("after") == ended.stdout.count("after []")
    assert "" == ended.stderr
    *found, parent = seen[0]
    assert [True, "1", str(folder / "inner"), "2", int(signal.SIG_DFL), True] == found
    assert seen[0] == seen[1]
    assert parent != int(ended.stdout.split()[-1])


def test_a_worker_that_dies_is_replaced(folder: Path) -> None:
    """The test that it was in has failed, and xdist goes on with another worker."""
    test = "import os\nimport pytest\n"
    test += "@pytest.mark.parametrize('n', range(6))\ndef test_it(n): os.kill(os.getpid(), 9 if n == 2 else 0)\n"
    ended = _ran(folder, test)

    assert "1 failed, 5 passed" in ended.stdout, ended.stdout + ended.stderr
    assert "crashed while running 'test_it.py::test_it[2]'" in ended.stdout


def _begun(folder: Path) -> Command:
    test = "import os, time\nfrom pathlib import Path\n"
    test += "def test_it():\n    Path(os.environ['PYTEST_XDIST_WORKER']).touch()\n"
    test += "    while True: time.sleep(0.1)\n"
    (folder / "inner" / "test_it.py").write_text(test, encoding="utf-8")
    command = started(folder, "-c", RUNS, "--dist", "each", "test_it.py", ready=True)
    until = time.monotonic() + 60
    while len(list(folder.glob("inner/gw*"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    return command


def test_no_process_is_left(folder: Path) -> None:
    """Workers end with the process that runs pytest, even if that is killed."""
    command = _begun(folder)
    os.kill(command.pid, signal.SIGKILL)

    assert 0 != command.ended(timeout=60).returncode
    assert gone(command.pid)


def test_a_program_that_xdist_cannot_name_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slashes separate the parts of xdist's specification: workers are then new Pythons."""
    monkeypatch.setattr(sys, "executable", "/usr//bin/python")
    with forkserver.workers(3) as options:
        assert ["-n", "3"] == options


def test_a_folder_that_takes_no_socket_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a socket has a hundred bytes at most: workers are then new Pythons."""
    long = tmp_path / ("long" * 50)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with forkserver.workers(3) as options:
        assert ["-n", "3"] == options
    assert [] == list(long.iterdir())


def test_nothing_is_left_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder and its process end with the context."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with forkserver.workers(3) as options:
        assert options[:2] == ["--dist", "load"]
        # one for each worker: the plugin counts them
        assert 3 == options.count("--tx")
        [folder] = tmp_path.iterdir()
        assert 0o700 == folder.stat().st_mode & 0o777
    assert [] == list(tmp_path.iterdir())
