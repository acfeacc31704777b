"""The launch of a case's call on a simulated GPU: the package's own path up to Triton's compiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime import jit

import normkernels
from conformance.adapters.normkernels import NormKernels
from conformance.calls.materialize import buffer_of, passed
from conformance.cases.case import SAME, SHARED_PARTS, Case
from conformance.operations import OPERATIONS, Arguments
from conformance.package.codegen.targets import Target
from normkernels import plans
from normkernels.call import Device, conversions
from normkernels.errors import PathUnavailable
from normkernels.operations.operation import OPERATIONS as PACKAGE_OPERATIONS

Untyped = Any  # Triton has no types


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch. ``key`` identifies the compiled code, as Triton's own cache key does.

    ``packed`` makes what Triton compiles, its source and options: most launches are only counted.
    """

    kernel: str
    access: str  # "" for a kernel without this constexpr
    key: str
    packed: Callable[[], tuple[ASTSource, dict[str, Untyped]]]


@dataclass(frozen=True, slots=True)
class Declined:
    """A call for which no kernel is launched, with every reason against the paths that would."""

    reasons: tuple[str, ...]  # names of normkernels.dispatch.Reason
    said: str


def gpu(target: Target) -> GPUTarget:
    """Return a target in Triton's form."""
    return GPUTarget(target.backend, target.arch, target.warp_size)


class Recorder:
    """A recorder of launches on ``target``, for a process with no other use.

    Once it exists, every tensor is on that GPU to the package, and no kernel runs.
    """

    def __init__(self, target: Target) -> None:
        self._backend = make_backend(gpu(target))
        self._adapter = NormKernels()
        self._binders: dict[str, Untyped] = {}
        self._launches: list[Launch] = []
        table = replace(plans.MEASURED, warp=target.warp_size, ptx=target.backend == "cuda")
        device = Device("cuda", has_triton=True, interpreting=False, table=table, fp8=conversions(gpu(target)))
        Device.of = lambda _tensor: device  # type: ignore[method-assign, assignment]  # as said above
        jit.JITFunction.run = lambda kernel, *args, **kwargs: self._note(kernel, args, kwargs)

    def launch(self, case: Case, *, in_place: bool = False) -> Launch | Declined:
        """Make the call of a case, on unwritten memory, and return its one launch."""
        arguments = unwritten(case)
        operation = OPERATIONS[case.operation]
        positional = [arguments.pop(name) for name in operation.positional]
        # forced, so that a call that no kernel takes is refused here, and not computed natively
        self._adapter.forced = PACKAGE_OPERATIONS[case.operation].path.value
        self._launches.clear()
        try:
            getattr(self._adapter, f"{case.operation}{'_' * in_place}")(*positional, **arguments)
        except PathUnavailable as refused:
            reasons = refused.reasons
            return Declined(tuple(each.reason.name for each in reasons), "; ".join(map(str, reasons)))
        (launched,) = self._launches
        return launched

    def plan(self, case: Case) -> str:
        """Return the name of the plan for a call that is launched."""
        decision = normkernels.explain(case.operation, **unwritten(case))
        assert decision.plan is not None
        return decision.plan.name

    def _note(self, kernel: Untyped, args: tuple[Untyped, ...], kwargs: dict[str, Untyped]) -> None:
        """Record a launch with the steps of Triton's own ``run`` before it compiles."""
        name = kernel.fn.__name__
        given = {key: value for key, value in kwargs.items() if key not in {"grid", "warmup"}}
        if name not in self._binders:
            self._binders[name] = jit.create_function_from_signature(
                kernel.signature, kernel.params, self._backend
            )
        bound, special, options = self._binders[name](*args, **given)
        key = f"{name} {special} {options}"
        access = bound.get("ACCESS", "")
        packed = partial(self._packed, kernel, given, bound, special, options)
        self._launches.append(Launch(name, access, key, packed))

    def _packed(self, kernel: Untyped, *bound: Untyped) -> tuple[ASTSource, dict[str, Untyped]]:
        """Return the source and the options of a launch."""
        options, signature, constants, attributes = kernel._pack_args(self._backend, *bound)
        return ASTSource(kernel, signature, constants, attributes), dict(options.__dict__)


def unwritten(case: Case) -> Arguments:
    """Return the arguments of a case, in its layouts; only positions are written, as zeros."""
    buffers: dict[object, torch.Tensor] = {}
    tensors: dict[str, torch.Tensor] = {}
    for name, spec in case.tensors:
        if spec.layout.kind == SAME:
            tensors[name] = tensors[case.source(name)]
            continue
        place = spec.layout.place(spec.shape, SHARED_PARTS)
        key = buffer_of(spec) or name
        if key not in buffers:
            # unwritten memory takes no physical memory, at any length
            make = torch.empty if spec.dtype.startswith(("float", "bfloat")) else torch.zeros
            buffers[key] = make(place.extent, dtype=getattr(torch, spec.dtype))
        tensors[name] = buffers[key].as_strided(spec.shape, place.strides, place.offset)
    operation = OPERATIONS[case.operation]
    flags = {name: passed(name, value) for name, value in case.flags}
    return {**dict.fromkeys((*operation.positional, *operation.keywords)), **tensors, **flags}
