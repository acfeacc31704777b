"""Every command of the documents runs as they say; those that cannot run here have a reason."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from conformance import cli
from conformance.cli import init
from conformance.selftest.documents import FINDINGS, PAGES, READMES, ROOT, blocks, changed, inline, text_of
from conformance.selftest.every import every
from conformance.selftest.processes import judged

RESULTS = (ROOT / "reports" / "README.md", ROOT / "benchmarks" / "results" / "README.md")
SHOWN = "eeb1a8d131"  # the failed case of the pages; a test has one of its own
HERE = "--device cpu -n 1"


@dataclass(frozen=True, slots=True)
class Run:
    """A command of the documents: part of what it prints, its exit status, arguments that make it take seconds.

    ``wrong``: the page whose change makes the adapter wrong before.
    """

    command: str
    shows: str
    status: int = 0
    shorter: str = ""
    wrong: str = ""


# In an order in which they may follow each other in one folder.
RUNS = (
    Run("conform init my_adapter.py", "my_adapter.py written"),
    Run("conform list", "adapters:"),
    Run("conform list rms_norm_gated", "rounding points:"),
    Run("conform survey my_adapter.py", "takes no groups", shorter="--device cpu"),
    Run("conform run my_adapter.py", "every judged property holds", shorter=f"--property empty {HERE}"),
    Run("conform run my_adapter.py --profile ci", "profile ci", shorter=f"--property empty {HERE}"),
    Run(
        "pytest --pyargs conformance.suite --adapter my_adapter.py --profile ci",
        "every judged property holds",
        shorter="-p conformance.plugin --property empty --device cpu",
    ),
    Run(
        "conform run my_adapter.py --property contract",
        "{} explains all (named: fp32)",
        status=1,
        shorter=f"{HERE} -x",
        wrong="contracts.md",
    ),
    Run(
        "conform run my_adapter.py --property values",
        "passes without any one of: norm_before_gate=False; a gate",
        status=1,
        shorter=f"{HERE} -x",
        wrong="judge.md",
    ),
    Run(f"conform replay {SHOWN}", "values failed", 1, "--device cpu", "judge.md"),
    Run(f"python build/conformance/repro_{SHOWN}.py", "values failed", status=1, wrong="judge.md"),
    Run(
        "conform annotate build/conformance --target my_adapter.py --summary summary.md",
        "::error file=my_adapter.py",
        wrong="judge.md",
    ),
    Run("conform compare before/report.json build/conformance", "rms_norm_gated", status=1),
)

EXAMPLE = "conformance/selftest/operations/test_worked_example.py"
# Commands that another test takes from their page and runs, and that test.
ELSEWHERE = {
    "conform list group_norm --operations my_ops.py": EXAMPLE,
    "conform run my_ops.py:Right --operations my_ops.py --op group_norm": EXAMPLE,
    "conform run my_ops.py:OnePass --operations my_ops.py --op group_norm -x": EXAMPLE,
}
# Commands that are not run, and why.
NOT_RUN = {
    "conform run my_adapter.py -x": "test_cli.py runs it, on an adapter that is wrong as well",
    "conform run my_adapter.py --last-failed": "test_cli.py runs it, after several failures",
    f"conform replay {SHOWN} my_adapter.py --property memory": "test_cli.py runs it, for each kind of property",
    "conform campaign my_adapter.py --chunks 20": "test_campaign.py runs it, for fewer chunks",
    "conform campaign my_adapter.py --chunks 2000 --ray auto": "needs Ray; test_campaign.py runs it where Ray is",
    "conform campaign my_adapter.py --chunks 2000 --ray HEAD:6379": "needs Ray, as the one before",
    "conform campaign my_adapter.py --minutes 600 --ray auto": "needs Ray, and ten hours",
    "pip install 'normkernels[ray,conformance]'": "downloads",
    "python -m examples.decode": "times models on a GPU",
    "python -m examples.decode --tiny": "examples/test_decode.py runs it",
    "make conform": "judges all kernels, which takes a minute",
    "make test": "is what runs this test",
    "pip install normkernels[conformance]": "downloads; test_wheel.py installs the wheel, and runs what is in it",
    "pip install torch --index-url https://download.pytorch.org/whl/cpu": "downloads",
    "python -m pytest conformance/selftest/oracle": "these tests run beside this one",
}


def _shown() -> dict[str, list[str]]:
    """Return the commands in blocks of the documents, with the documents that show them."""
    found: dict[str, list[str]] = {}
    for path in (*READMES, *PAGES, *FINDINGS):
        for command in blocks(text_of(path)):
            found.setdefault(command, []).append(path.relative_to(ROOT).as_posix())
    return found


def test_every_command_is_run_or_has_a_reason() -> None:
    """A command that a document shows stands in one table, and what stands there is shown somewhere."""
    known = [*(run.command for run in RUNS), *ELSEWHERE, *NOT_RUN]
    shown = _shown()

    assert {} == {command: places for command, places in shown.items() if command not in known}
    assert [] == [command for command in known if command not in shown]
    assert len(known) == len(set(known))


def test_commands_that_run_elsewhere_do() -> None:
    """The test that is named takes its commands from the page."""
    assert {EXAMPLE} == set(ELSEWHERE.values())
    assert set(ELSEWHERE) == set(blocks(text_of(ROOT / "docs" / "operations.md")))
    assert "= blocks(PAGE)" in text_of(ROOT / EXAMPLE)


def test_commands_do_what_the_documents_say(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """Each ends with its status and shows what it is for, one after the other as a reader runs them."""
    folder = tmp_path / "mine"
    folder.mkdir()
    adapter, report = folder / "my_adapter.py", folder / "build" / "conformance"
    for run in RUNS:
        with subtests.test(run.command):
            if adapter.exists():
                page = run.wrong and text_of(ROOT / "docs" / run.wrong)
                adapter.write_text(changed(page, init.SKELETON) if page else init.SKELETON, encoding="utf-8")
            ended = judged(folder, *_arguments(run, report))
            assert run.status == ended.returncode, ended.stdout + ended.stderr
            assert run.shows in " ".join(ended.stdout.split()), ended.stdout + ended.stderr
        # the report of the right adapter is the one to compare with
        if report.exists() and not (folder / "before").exists():
            shutil.copytree(report, folder / "before")


def _arguments(run: Run, report: Path) -> list[str]:
    """Return a command as Python runs it here, with the case that failed."""
    command = f"{run.command} {run.shorter}"
    if SHOWN in command:
        made = json.loads((report / "report.json").read_text(encoding="utf-8"))
        command = command.replace(SHOWN, made["failures"][0]["id"])
    program, *given = shlex.split(command)
    return {"conform": ["-m", "conformance", *given], "pytest": ["-m", "pytest", *given]}.get(program, given)


def test_commands_have_words_that_exist() -> None:
    """Commands and options of ``conform``, targets of make, modules and files, in blocks and in sentences."""
    documents = (*READMES, *PAGES, *FINDINGS, *RESULTS)
    found = {command: path for path in documents for command in (*inline(text_of(path)), *blocks(text_of(path)))}
    assert len(found) > 50

    unknown = {f"{path.name}: {command}": [*_unknown(shlex.split(command))] for command, path in found.items()}
    assert {} == {command: words for command, words in unknown.items() if words}


def _unknown(words: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command that mean nothing."""
    program, *given = words
    if program == "make":
        targets = re.findall(r"^(\w+):", text_of(ROOT / "Makefile"), re.MULTILINE)
        yield from (word for word in given if "=" not in word and word not in targets)
    elif program == "conform":
        yield from _unknown_to_conform(given)
    elif given[:2] == ["-m", "conformance"]:
        yield from _unknown_to_conform(given[2:])
    elif program == "python" and given[0] == "-m":
        yield from [] if importlib.util.find_spec(given[1]) else [given[1]]
    elif program == "python" and not given[0].startswith("build/"):
        yield from [] if (ROOT / given[0]).is_file() else [given[0]]


def _unknown_to_conform(given: Sequence[str]) -> Iterator[str]:
    command: click.Command = cli.cli
    if given and not given[0].startswith("-"):
        if given[0] not in cli.cli.commands:
            yield given[0]
            return
        command = cli.cli.commands[given[0]]
    options = {option for each in command.get_params(click.Context(command)) for option in each.opts}
    yield from (word for word in given if word.startswith("-") and word not in options)


@every(
    ("command", "word"),
    [
        ("conform judge my_adapter.py", "judge"),
        ("conform run --proprety values", "--proprety"),
        ("python -m conformance run --opp rope", "--opp"),
        ("python -m benchmarks.swept", "benchmarks.swept"),
        ("python docs/findings/0.py", "docs/findings/0.py"),
        ("make documents", "documents"),
    ],
)
def test_a_word_that_means_nothing_is_noticed(command: str, word: str) -> None:
    """The check above can fail."""
    assert [word] == list(_unknown(shlex.split(command)))


def test_commands_are_found_wherever_they_stand() -> None:
    """In a block, with a comment behind, in a list of YAML; and in a sentence, over two lines."""
    text = (
        "```yaml\n  - run: pip install x\n  - conform run y  # why\n```\n`.venv/bin/conform\nlist` and `conform`\n"
    )

    assert ("pip install x", "conform run y") == blocks(text)
    assert ("conform list",) == inline(text)
