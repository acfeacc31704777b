"""Choice of the path and plan of a call, with the reasons against better ones. Pure: it sees descriptions only."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import ClassVar

from normkernels import plans
from normkernels.call import Call, Device
from normkernels.errors import PathUnavailable


class Path(StrEnum):
    """A way to run a call."""

    ROWS = "rows"
    HEADS = "heads"
    NATIVE = "native"


class Reason(Enum):
    """A requirement of a path or plan that a call or machine does not meet."""

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


# Whether a reason rules out a path or plan, the reason, and the value that was given.
Stop = tuple[bool, Reason, str]


@dataclass(frozen=True, slots=True)
class Rejection:
    """One reason against one path, or against one plan of it."""

    path: Path
    plan: str | None
    reason: Reason
    got: str

    def __str__(self) -> str:
        """Return the requirement, then the value that was given."""
        return f"{_name(self.path, self.plan)}: {self.reason.name}: {self.reason.value}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Decision:
    """The path and plan that run a call, and every better one with all reasons against it."""

    path: Path
    plan: plans.Plan | None
    rejected: tuple[Rejection, ...]
    launched: str | None = None  # how the kernel is launched; ``explain`` fills it in

    @property
    def name(self) -> str:
        """Return the path and plan, as in ``rows/decode128``, or ``native``."""
        return _name(self.path, None if self.plan is None else self.plan.name)

    def __str__(self) -> str:
        """Return a line for the choice, one for the launch of its kernel, and one for each rejection."""
        launched = () if self.launched is None else (f"launched {self.launched}",)
        return "\n  ".join((self.name, *launched, *(f"not {rejection}" for rejection in self.rejected)))


class Kernels(ABC):
    """The Triton kernels of an operation: one path, and its plans."""

    name: str
    path: ClassVar[Path]

    @abstractmethod
    def stops(self, call: Call, device: Device) -> Iterable[Stop]:
        """Return the reasons against these kernels, besides those against any Triton kernel."""

    @abstractmethod
    def plan(self, call: Call, device: Device) -> tuple[plans.Plan, tuple[Rejection, ...]]:
        """Return the plan of a call that the kernels take, and each better plan with the reasons against it."""


def decide(
    kernels: Kernels, call: Call, device: Device, path: Path | None = None, *, asked_by: str = "path"
) -> Decision:
    """Return the first path that can run ``call``, or ``path``; raise ``PathUnavailable`` if ``path`` cannot."""
    if path is Path.NATIVE:
        forced = Rejection(kernels.path, None, Reason.FORCED, f"{asked_by}={path}")
        return Decision(path, None, (forced,))
    runs_on = ("cuda", "cpu") if device.interpreting else ("cuda",)
    stops = (
        (not device.has_triton, Reason.NO_TRITON, "none that can be imported"),
        (device.kind not in runs_on, Reason.NO_GPU, repr(device.kind)),
        (call.dtype == "float64", Reason.DTYPE, call.dtype),
        (call.needs_grad is not None, Reason.NEEDS_GRAD, f"{call.needs_grad} that needs one"),
        (call.not_plain is not None, Reason.SUBCLASS, str(call.not_plain)),
    )
    stopped = rejections(kernels.path, None, (*stops, *kernels.stops(call, device)))
    if not stopped:
        plan, worse = kernels.plan(call, device)
        return Decision(kernels.path, plan, worse)
    if path is not None:
        raise PathUnavailable(f"{call.operation}: {asked_by}={path} cannot run {call}:", stopped)
    return Decision(Path.NATIVE, None, stopped)


def rejections(path: Path, plan: str | None, stops: Iterable[Stop]) -> tuple[Rejection, ...]:
    """Return a rejection of a path or plan for each reason that rules it out."""
    return tuple(Rejection(path, plan, reason, got) for stopped, reason, got in stops if stopped)


def _name(path: Path, plan: str | None) -> str:
    return path.value if plan is None else f"{path.value}/{plan}"
