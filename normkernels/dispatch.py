"""Which path and plan run a call, and why the better ones do not. Pure: sees descriptions only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from normkernels import plans
from normkernels.errors import PathUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from normkernels.call import Call, Device


class Path(StrEnum):
    """A way to run a call."""

    ROWS = "rows"
    HEADS = "heads"
    NATIVE = "native"


class Reason(Enum):
    """What a path or plan needs and a call or machine lacks."""

    NO_TRITON = "needs triton"
    NO_GPU = "needs a GPU"
    DTYPE = "computes in float32"
    LEADING_STRIDES = f"needs leading sizes that collapse to {plans.MAX_LEADING}"
    TOO_WIDE = f"holds {plans.MAX_WIDTH} columns in one block"
    HEAD_DIM_LIMIT = f"holds {plans.MAX_HEAD_DIM} columns of a head"
    NEEDS_GRAD = "has no backward"
    SUBCLASS = "needs plain tensors"
    FORCED = "runs unless another path is asked for"
    NO_GATE = "needs a gate"
    GROUPED = "needs one group"
    GATE_FIRST = "needs the gate after the norm"
    WIDTH = f"needs {plans.NARROW} columns"
    X_NOT_CONTIGUOUS = "needs a contiguous x"
    GATE_NOT_CONTIGUOUS = "needs a contiguous gate"
    OUT_NOT_CONTIGUOUS = "needs a contiguous out"
    FP8_DTYPE = "needs an fp8 type that Triton converts to on the GPU"
    QUANT_GROUP = "needs quant groups in norm groups, or norm groups in quant groups"


@dataclass(frozen=True, slots=True)
class Rejection:
    """One reason against one path, or against one plan of it."""

    path: Path
    plan: str | None
    reason: Reason
    got: str

    def __str__(self) -> str:
        """Say what is needed, then what was given."""
        return f"{_name(self.path, self.plan)}: {self.reason.name}: {self.reason.value}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Decision:
    """The path and plan that run a call, and every better one with all reasons against it."""

    path: Path
    plan: plans.Plan | None
    rejected: tuple[Rejection, ...]
    launched: str | None = None  # how ``explain`` says its kernel is

    @property
    def name(self) -> str:
        """Return ``rows/decode128`` and the like, or ``native``."""
        return _name(self.path, None if self.plan is None else self.plan.name)

    def __str__(self) -> str:
        """Name the choice, how its kernel is launched, and each rejection, a line each."""
        launched = () if self.launched is None else (f"launched {self.launched}",)
        return "\n  ".join((self.name, *launched, *(f"not {rejection}" for rejection in self.rejected)))


def _name(path: Path, plan: str | None) -> str:
    return path.value if plan is None else f"{path.value}/{plan}"


def against_rows(call: Call, device: Device) -> tuple[Rejection, ...]:
    """Return what stops the Triton kernels for rows."""
    stops = (
        (call.leading > plans.MAX_LEADING, Reason.LEADING_STRIDES, str(call.leading)),
        (call.width > plans.MAX_WIDTH, Reason.TOO_WIDE, str(call.width)),
    )
    return _against_triton(Path.ROWS, call, device, stops)


def against_heads(call: Call, device: Device) -> tuple[Rejection, ...]:
    """Return what stops the Triton kernel for heads."""
    stops = ((call.width > plans.MAX_HEAD_DIM, Reason.HEAD_DIM_LIMIT, str(call.width)),)
    return _against_triton(Path.HEADS, call, device, stops)


def _against_triton(
    path: Path, call: Call, device: Device, stops: tuple[tuple[bool, Reason, str], ...]
) -> tuple[Rejection, ...]:
    """Return what stops a path of Triton kernels, with the ``stops`` of its own among it."""
    runs_on = ("cuda", "cpu") if device.interpreting else ("cuda",)
    every = (
        (not device.has_triton, Reason.NO_TRITON, "none that can be imported"),
        (device.kind not in runs_on, Reason.NO_GPU, repr(device.kind)),
        (call.dtype == "float64", Reason.DTYPE, call.dtype),
        *stops,
        (call.needs_grad is not None, Reason.NEEDS_GRAD, f"{call.needs_grad} that needs one"),
        (call.not_plain is not None, Reason.SUBCLASS, str(call.not_plain)),
    )
    return tuple(Rejection(path, None, reason, got) for stopped, reason, got in every if stopped)


def against_quantised_rows(call: Call, device: Device) -> tuple[Rejection, ...]:
    """Return what stops the Triton kernels with fp8 values."""
    assert call.quantised is not None
    dtype, crossing = call.quantised.dtype, call.quantised.crossing
    stops = (
        (dtype not in device.fp8, Reason.FP8_DTYPE, dtype),
        (crossing is not None, Reason.QUANT_GROUP, str(crossing)),
    )
    stopped = tuple(Rejection(Path.ROWS, None, reason, got) for stop, reason, got in stops if stop)
    return against_rows(call, device) + stopped


def against_native(_call: Call, _device: Device) -> tuple[Rejection, ...]:
    """Return nothing: native runs every valid call."""
    return ()


def general_plan(call: Call, device: Device) -> tuple[plans.Plan, tuple[Rejection, ...]]:
    """Return the one plan for a norm on rows."""
    if call.quantised is None:
        return plans.general("residual" if call.residual else "norm", call.rows, call.width, device.table), ()
    kind = "gated fp8" if call.operation != "rms_norm_fp8" else "fp8 residual" if call.residual else "fp8"
    return plans.general(kind, call.rows, call.quantised.span, device.table, call.width), ()


def gated_plan(call: Call, device: Device) -> tuple[plans.Plan, tuple[Rejection, ...]]:
    """Return the plan for a gated norm on rows, and what stops the plan for contiguous rows of 128."""
    assert call.gated is not None
    narrow = plans.gated_128(call.rows, device.table)
    stops = (
        (call.gated.gate == "none", Reason.NO_GATE, "none"),
        (call.width != call.n, Reason.GROUPED, f"{call.rows} of {call.width}"),
        (call.gated.gate == "before", Reason.GATE_FIRST, "it before"),
        (call.n != plans.NARROW, Reason.WIDTH, str(call.n)),
        (not call.gated.x_contiguous, Reason.X_NOT_CONTIGUOUS, "a strided one"),
        (not call.gated.gate_contiguous, Reason.GATE_NOT_CONTIGUOUS, "a strided one"),
        (not call.gated.out_contiguous, Reason.OUT_NOT_CONTIGUOUS, "a strided one"),
    )
    stopped = tuple(Rejection(Path.ROWS, narrow.name, reason, got) for stop, reason, got in stops if stop)
    return (plans.general("gated", call.rows, call.width, device.table) if stopped else narrow), stopped


def heads_plan(call: Call, device: Device) -> tuple[plans.Plan, tuple[Rejection, ...]]:
    """Return the one plan for a rotation of heads."""
    assert call.heads is not None
    heads = call.heads
    plan = plans.heads(call.rows, heads.q, heads.k, call.width, heads.half, device.table, copied=heads.copied)
    return plan, ()


# Every operation's paths in order of preference. A check returns all that stops a path.
CHECKS: Mapping[str, Mapping[Path, Callable[[Call, Device], tuple[Rejection, ...]]]] = {
    "rms_norm": {Path.ROWS: against_rows, Path.NATIVE: against_native},
    "gemma_rms_norm": {Path.ROWS: against_rows, Path.NATIVE: against_native},
    "rms_norm_gated": {Path.ROWS: against_rows, Path.NATIVE: against_native},
    "mrope": {Path.HEADS: against_heads, Path.NATIVE: against_native},
    "rms_norm_fp8": {Path.ROWS: against_quantised_rows, Path.NATIVE: against_native},
    "rms_norm_gated_fp8": {Path.ROWS: against_quantised_rows, Path.NATIVE: against_native},
}
# How a path that has plans chooses one.
PLANS: Mapping[tuple[str, Path], Callable[[Call, Device], tuple[plans.Plan, tuple[Rejection, ...]]]] = {
    ("rms_norm", Path.ROWS): general_plan,
    ("gemma_rms_norm", Path.ROWS): general_plan,
    ("rms_norm_gated", Path.ROWS): gated_plan,
    ("mrope", Path.HEADS): heads_plan,
    ("rms_norm_fp8", Path.ROWS): general_plan,
    ("rms_norm_gated_fp8", Path.ROWS): general_plan,
}


def decide(call: Call, device: Device, path: Path | None = None, *, asked_by: str = "path") -> Decision:
    """Return the first path that can run ``call``, or ``path``; raise if that one cannot."""
    rejected: list[Rejection] = []
    for candidate, check in CHECKS[call.operation].items():
        if path not in (None, candidate):
            rejected.append(Rejection(candidate, None, Reason.FORCED, f"{asked_by}={path}"))
            continue
        stopped = check(call, device)
        rejected.extend(stopped)
        if not stopped:
            choose = PLANS.get((call.operation, candidate))
            plan, worse = choose(call, device) if choose else (None, ())
            return Decision(candidate, plan, (*rejected, *worse))
        if path is not None:
            raise PathUnavailable(f"{call.operation}: {asked_by}={path} cannot run {call}:", stopped)
    raise AssertionError(f"{call.operation} has no path that runs every valid call")
