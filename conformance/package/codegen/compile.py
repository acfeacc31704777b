"""A program that compiles every variant for one target, its argument, and prints a line of JSON for each.

It runs in a process of its own: an interpreting process cannot compile, and this one pretends to have a GPU.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import triton
from triton.backends import backends
from triton.compiler.errors import CompilationError
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


def main(name: str) -> None:
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
    main(sys.argv[1])
