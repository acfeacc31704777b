"""Header of a report, on which its numbers depend: versions, machine, commit, adapter, switches."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from conformance.adapter import Crashed, Hung
from conformance.calls.budget import ALONE, Allowance
from conformance.calls.call import Subject
from conformance.calls.child import Child, Prepared
from conformance.calls.declared import PER_OPERATION
from conformance.operations import OPERATIONS
from conformance.oracle.contract import in_words
from conformance.report.document import Declarations, GpuMemory, Header, Rounding
from conformance.runs.data import to_data
from conformance.runs.host import Greeting, numerics, version

STARTS = 120.0  # seconds that CUDA may take to start


def header(
    subject: Subject,
    *,
    chunks: str | None = None,
    allowance: Allowance = ALONE,
    greeting: Greeting | None = None,
    **options: Any,  # noqa: ANN401 - values of the options that decide which cases are judged
) -> Header:
    """Return what the numbers depend on: versions, machine, commit, subject, numerics environment, ``options``.

    ``chunks`` names the numbers of the chunks that were judged, where they are not those of the profile;
    ``allowance`` is what each worker may hold of its GPU, ``greeting`` the answer of the adapter's process, where
    that is another process.
    """
    device, gpu_memory = _device(subject, allowance)
    return Header(
        **origin(),
        device=device,
        gpu_memory=gpu_memory,
        chunks=chunks,
        adapter=_adapter(subject),
        changed_by_import=tuple(greeting.changed) if greeting else (),
        numerics=dict(greeting.numerics) if greeting else numerics(),
        **options,
    )


def origin() -> dict[str, Any]:
    """Return what every result depends on: versions, machine, commit."""
    return {
        "suite": version("normkernels"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "hypothesis": version("hypothesis"),
        "platform": platform.platform(),
        "commit": _commit(),
    }


def facts(made: Header) -> Iterator[tuple[str, str]]:
    """Return every entry of a header with its value in words; entries of tables by their path."""
    return _facts(to_data(made), "")


def _facts(made: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in made.items():
        if isinstance(value, dict) and value:
            yield from _facts(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _device(subject: Subject, allowance: Allowance) -> tuple[str, GpuMemory | None]:
    """Return the device in words; for a GPU also how many workers share it, and the bytes that each may hold."""
    if subject.device == "cpu":
        return _cpu(subject), None
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    answer = _gpu() if started else _gpu_of_a_child()
    if isinstance(answer, Crashed | Hung):
        return f"a GPU that does not answer: {answer}", None
    name, total = answer
    return name, GpuMemory(allowance.sharers, allowance.bytes(total))


def _gpu_of_a_child() -> tuple[str, int] | Crashed | Hung:
    """Return :func:`_gpu` from a child that starts CUDA in place of this process, which may still have to fork."""
    child: Child[None, None, tuple[str, int]] = Child(lambda: Prepared(None, lambda _: _gpu()), STARTS)
    try:
        return child.ask(None)
    finally:
        child.close()


def _gpu() -> tuple[str, int]:
    """Return name and memory of the current GPU."""
    major, minor = torch.cuda.get_device_capability()
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return f"{torch.cuda.get_device_name()} (capability {major}.{minor})", total


def _cpu(subject: Subject) -> str:
    if os.environ.get("TRITON_INTERPRET") != "1" or version("triton") is None:
        return "CPU, without Triton"
    return f"CPU, Triton interpreter (faithful: {'no' if subject.unfaithful else 'yes'})"


def _commit() -> str | None:
    """Return the commit of the working directory, with a plus where files differ from it.

    Where the files come without a repository, return the commit named in the environment, as CI systems set it.
    """
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        named = os.environ.get("GIT_COMMIT") or os.environ.get("GITHUB_SHA")
        return named[:12] if named else None
    return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        asked = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except OSError:
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def _adapter(subject: Subject) -> Declarations:
    """Return the adapter's name and all that it declares: nothing else is demanded."""
    declared = subject.declared
    contracts = {name: traits.contract for name, traits in declared.operations.items() if traits.contract}
    return Declarations(
        name=declared.name,
        package=" ".join(filter(None, (declared.package, version(declared.package)))) if declared.package else "",
        contracts={
            operation: Rounding(
                tuple(sorted(contract.rounds)), contract.depth, in_words(contract, OPERATIONS[operation].rounds)
            )
            for operation, contract in contracts.items()
        },
        traits={trait: _told(subject, trait) for trait in PER_OPERATION},
        reference=declared.reference,
    )


def _told(subject: Subject, trait: str) -> bool | dict[str, bool]:
    """Return one declaration: for all operations where they agree, otherwise for each that is implemented."""
    operations = subject.declared.operations
    told = {name: bool(getattr(traits, trait)) for name, traits in operations.items() if traits.implemented}
    return next(iter(told.values()), False) if len(set(told.values())) < 2 else told
