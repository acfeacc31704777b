"""What a direct launch passes is what Triton's own launch of the same call would, and when there is one.

No GPU is needed: the kernels here are compiled by nobody, and remember what they are started with.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pytest
import torch

import normkernels
from conformance.case import Case
from conformance.materialize import materialize, values_of
from conformance.memory import POISONS
from conformance.operations import OPERATIONS
from conformance.package.gated_calls import DEVICE
from conformance.rows import count, flat, with_rows
from conformance.strategies import Scope, enumerated_cases
from conformance.verdict import arguments_of
from normkernels import launch, routes
from normkernels.kernels import plans

STREAM = 7


class Start(NamedTuple):
    """What a kernel was started with: pointers, numbers and constants in the kernel's order."""

    directly: bool
    compiled: Compiled
    grid: tuple[int, ...]
    args: tuple[object, ...]


@dataclass(eq=False)
class Compiled:
    """Stands in for a compiled kernel: takes what Triton's takes."""

    starts: list[Start]
    function: int = 11
    packed_metadata: tuple[int, int, int] = (1, 1, 0)

    def run(self, *given: Any) -> None:
        """Note a direct launch."""
        grid, (stream, function, metadata), hooks, args = given[:3], given[3:6], given[6:9], given[9:]
        assert (STREAM, self.function, self.packed_metadata) == (stream, function, metadata)
        assert (None, None, None) == hooks
        self.starts.append(Start(directly=True, compiled=self, grid=grid, args=args))


@dataclass
class Gpu:
    """Stands in for Triton on a GPU: a kernel for each mixture of what kernels are compiled for."""

    starts: list[Start] = field(default_factory=list)
    kernels: dict[Hashable, Compiled] = field(default_factory=dict)

    def launch(
        self, kernel: Any, grid: tuple[int, ...], args: Any, plan: plans.Plan, device: torch.device
    ) -> launch.Launched:
        """Note a launch through Triton, in whose place it is."""
        constants = tuple(
            (name, args[name])
            for name, kind in inspect.get_annotations(kernel.fn).items()
            if "constexpr" in str(kind)
        )
        dtypes = tuple(each.dtype for each in args.values() if isinstance(each, torch.Tensor))
        compiled = self.kernels.setdefault(
            (kernel.fn.__name__, constants, dtypes, plan.warps), Compiled(self.starts)
        )
        passed = tuple(
            each.data_ptr() if isinstance(each, torch.Tensor) else each
            for each in (args[name] for name in kernel.arg_names)
        )
        whole = (*grid, *(1,) * (3 - len(grid)))
        self.starts.append(Start(directly=False, compiled=compiled, grid=whole, args=passed))
        return launch.Launched(kernel, compiled, grid, args, plan, device)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    """Let calls take their kernels to a GPU that is not there, with the plans of one that is."""
    made = Gpu()
    monkeypatch.setattr(plans, "TABLE", plans.MEASURED)
    monkeypatch.setattr(launch, "standing", lambda: None)
    monkeypatch.setattr(launch, "_current_device", lambda: 0 if DEVICE == "cuda" else None)
    monkeypatch.setattr(launch, "_current_stream", lambda _index: STREAM)
    for operation in ("rms_norm", "rms_norm_gated", "rms_norm_fp8", "rms_norm_gated_fp8", "mrope"):
        monkeypatch.setattr(f"normkernels.kernels.{operation}.launch", made.launch)
    monkeypatch.setattr(launch, "reread_environment", lambda: None)
    routes.reread_environment()
    yield made
    routes.reread_environment()


def call(operation: str, case: Case) -> tuple[torch.Tensor, ...]:
    """Call an operation as the suite's adapter does; its own tensors, and what it returns, stay alive."""
    arguments = arguments_of(materialize(case, values_of(case), DEVICE, POISONS[0]))
    return call_with(operation, arguments)


def call_with(operation: str, arguments: Any) -> tuple[torch.Tensor, ...]:
    """Call an operation with arguments by name."""
    results = getattr(normkernels, operation)(**{name: each for name, each in arguments.items()})
    return results if isinstance(results, tuple) else (results,)


def apart(start: Start, results: tuple[torch.Tensor, ...]) -> tuple[object, ...]:
    """What a kernel was started with, results by their number: each call has its own."""
    places = {result.data_ptr(): f"result {number}" for number, result in enumerate(results)}
    return tuple(places.get(each, each) if type(each) is int else each for each in start.args)


def drawn(operation: str) -> list[Case]:
    """Cases that cover all pairs of what the suite may draw for an operation, in two dtypes."""
    made = OPERATIONS[operation]
    return [
        flat(case)
        for dtype in ("bfloat16", "float32")
        for seed in range(2)
        for case in enumerated_cases(made.factors, made.complete, Scope(dtype), strength=2, seed=seed)
    ]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_direct_launch_passes_what_triton_would(operation: str, gpu: Gpu) -> None:
    """Same kernel, same grid, same arguments as the call that nobody has made before."""
    direct = 0
    for case in drawn(operation):
        rows = count(case)
        for few_or_many in (max(1, rows - 3), rows + 5):
            call(operation, with_rows(case, few_or_many))
        arguments = arguments_of(materialize(case, values_of(case), DEVICE, POISONS[0]))
        gpu.starts.clear()
        first = call_with(operation, arguments)
        routes.reread_environment()
        second = call_with(operation, arguments)
        if not gpu.starts:
            continue
        repeated, ordinary = gpu.starts

        assert not ordinary.directly
        assert (ordinary.compiled, ordinary.grid) == (repeated.compiled, repeated.grid)
        assert apart(ordinary, second) == apart(repeated, first)
        direct += repeated.directly
    assert direct > 20
