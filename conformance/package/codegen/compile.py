"""A program that compiles every variant for some targets, and prints a line of JSON for each.

Its arguments are the number of processes at a time, and the targets. It is a program because an interpreting
process cannot compile. Each target has a process that pretends to have that GPU, forked once all imports are done.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import wait
from typing import IO, Any

import triton
from triton.backends import backends
from triton.compiler.errors import CompilationError
from triton.runtime.cache import triton_key
from triton.runtime.errors import PTXASError, TritonError

from conformance.cases.case import Case, Layout
from conformance.operations import OPERATIONS
from conformance.operations.rows import count
from conformance.package.codegen.facts import Facts, asked, of_amd, of_nvidia, scattered
from conformance.package.codegen.launches import Declined, Launch, Recorder, gpu
from conformance.package.codegen.targets import TARGETS, Target
from conformance.package.codegen.variants import OWN, VARIANTS, VENDORS, Variant, compiled_for
from conformance.package.codegen.workloads import WORKLOADS, calls, laid_out

Row = dict[str, Any]  # one line of output

# A number of rows is 1, a multiple of 16, or neither.
BATCHES = (1, 15, 16, 17)
# Below this number of rows, the first at which any plan begins, a single row has the same plan.
FEW = 128
# Starts of rows, and the gaps between rows, in elements.
GAPS = ((0, 1), (0, 3), (0, 16), (1, 16))
STARTS = (0, 1, 3, 16)


LIMIT = 900  # seconds a target
LAST = 2000  # characters of a process's errors before it failed
_FORK = multiprocessing.get_context("fork")


def main(names: Sequence[str], workers: int) -> None:
    """Print the rows of each target as its process ends, ``workers`` at a time."""
    triton_key()  # once: every fork would read all of Triton for the names of its files in the cache
    # what is imported is no garbage: no fork has to look
    gc.freeze()
    waiting, running = list(names), list[_Running]()
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(_Running(waiting.pop(0)))
        ended = wait([each.process.sentinel for each in running])
        for each in [each for each in running if each.process.sentinel in ended]:
            running.remove(each)
            print(*each.lines(), sep="\n", flush=True)  # noqa: T201 - the parent reads it
    gc.unfreeze()


class _Running:
    """A process for one target, whose rows and errors go into files."""

    def __init__(self, name: str) -> None:
        self._name = name
        # closed once they are read
        self._files = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in range(2)]  # noqa: SIM115
        self.process = _FORK.Process(target=_write, args=(name, *self._files), daemon=True)
        self.process.start()

    def lines(self) -> list[str]:
        """Return the rows, once the process has ended; if it failed, also a row that says how."""
        self.process.join()
        printed, errors = map(_read, self._files)
        found, code = [line for line in printed.splitlines() if line.startswith("{")], self.process.exitcode
        if code:
            how = f"took more than {LIMIT} s" if code == -signal.SIGALRM else f"exit status {code}"
            found.append(json.dumps({"target": self._name, "failed": f"{how}: {errors[-LAST:]}"}))
        return found


def _read(file: IO[str]) -> str:
    with file:
        file.seek(0)
        return file.read()


def _write(name: str, printed: IO[str], errors: IO[str]) -> None:
    """Print the rows of a target into a file, and all else that is written to the two standard files."""
    for number, file in enumerate((printed, errors), start=1):
        os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = printed, errors
    signal.alarm(LIMIT)
    show_rows(name)


def show_rows(name: str) -> None:
    """Print the rows of a target."""
    target = TARGETS[name]
    if not any(each.compiler.supports_target(gpu(target)) for each in backends.values()):
        made: Iterable[Row] = [{"not_judged": f"Triton {triton.__version__} has no backend for {target.backend}"}]
    else:
        made = rows(target)
    for row in made:
        print(json.dumps({"target": name, **row}), flush=True)  # noqa: T201 - the parent reads it


def rows(target: Target) -> Iterator[Row]:
    """Yield a row per variant, one per variant that is compiled with FP fusion as well, and one per workload."""
    recorder = Recorder(target)
    compiled: dict[str, Row] = {}
    for name, fusion in compiled_for(target):
        row = _row(recorder, target, VARIANTS[name], compiled, fusion=fusion)
        yield {"variant": name, "fusion": fusion, **row}
    for workload in WORKLOADS if target.name in VENDORS else ():
        kernels: dict[str, set[str]] = {}
        for case, in_place in calls(workload):
            launched = recorder.launch(_on(case, target), in_place=in_place)
            if isinstance(launched, Launch):
                kernels.setdefault(launched.kernel, set()).add(launched.key)
        yield {"workload": workload.name, "kernels": {kernel: len(keys) for kernel, keys in kernels.items()}}


def _row(recorder: Recorder, target: Target, variant: Variant, compiled: dict[str, Row], *, fusion: bool) -> Row:
    """Return the row of one variant; ``compiled`` caches the outcome of launches that Triton compiles once."""
    case = _on(variant.case, target)
    launched = recorder.launch(case, in_place=variant.in_place)
    if isinstance(launched, Declined):
        return {"declined": list(launched.reasons), "said": launched.said}
    plan = recorder.plan(case)
    key = f"{launched.key} {plan} {fusion}"
    if key not in compiled:
        compiled[key] = _outcome(launched, plan, target, fusion=fusion)
    if fusion:
        return compiled[key]
    return {
        **compiled[key],
        "batches": _kernels(recorder, variant, _batches(case)),
        "places": _kernels(recorder, variant, _places(case, gaps=bool(launched.access))),
    }


def _outcome(launched: Launch, plan: str, target: Target, *, fusion: bool) -> Row:
    """Return the facts of a launch, or why Triton does not compile it."""
    log = io.StringIO()
    source, packed = launched.packed()
    # without fusion, options as launched: the launch itself must forbid fusion
    options = {**packed, **({"enable_fp_fusion": True} if fusion else {})}
    try:
        # Triton prints the output of ptxas to stdout
        with contextlib.redirect_stdout(log):
            code = triton.compile(source, target=gpu(target), options=options)
    except (CompilationError, PTXASError, TritonError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"[:2000]}
    read = of_nvidia(code.asm["ptx"], log.getvalue()) if "ptx" in code.asm else of_amd(code.asm["amdgcn"])
    read["fused"] -= asked(code.asm["llir"])
    facts = Facts(
        kernel=launched.kernel,
        plan=plan,
        access=launched.access,
        threads=code.metadata.num_warps * target.warp_size,
        shared=code.metadata.shared,
        scattered=scattered(code.asm["ttgir"]),
        **read,
    )
    return {"facts": facts.to_data()}


def _on(case: Case, target: Target) -> Case:
    """Return the case with the fp8 type that the target is to use, if the case leaves that open."""
    if dict(case.flags).get("fp8_dtype") != OWN:
        return case
    # the package must decline a type that the target does not have
    return case.with_flag("fp8_dtype", next(iter(target.fp8), "float8_e4m3fn"))


def _kernels(recorder: Recorder, variant: Variant, cases: Iterator[Case]) -> int:
    """Return the number of kernels that Triton compiles for some calls."""
    launched = [recorder.launch(case, in_place=variant.in_place) for case in cases]
    return len({each.key for each in launched if isinstance(each, Launch)})


def _batches(case: Case) -> Iterator[Case]:
    """Yield the case in batches of each kind of number, all in its own plan."""
    # the other size of a swapped tensor: its strides do not follow from this one
    axis = int(any(spec.layout.kind == "swapped" for _, spec in case.tensors))
    size = case.tensors[0][1].shape[axis]
    first = 0 if count(case) < FEW else size
    for batch in BATCHES:
        resized = case
        for name, spec in case.tensors:
            if name in OPERATIONS[case.operation].row_tensors:
                shape = list(spec.shape)
                shape[OPERATIONS[case.operation].token_axes.get(name, axis)] = first + batch
                resized = resized.with_tensor(name, replace(spec, shape=tuple(shape)))
        yield resized


def _places(case: Case, *, gaps: bool) -> Iterator[Case]:
    """Yield the case at other places in memory: with gaps between rows, or, without gaps, at other starts."""
    if not gaps:
        yield from (laid_out(case, Layout("offset", start)) for start in STARTS)
        return
    for start, gap in GAPS:
        moved = case
        for name, spec in laid_out(case, Layout("slice")).tensors:
            if spec.layout.kind == "slice":
                row = math.prod(spec.shape[1:]) + gap
                moved = moved.with_tensor(name, replace(spec, layout=Layout("slice", start, row)))
        yield moved


if __name__ == "__main__":
    main(sys.argv[2:], int(sys.argv[1]))
