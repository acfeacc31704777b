"""The interface of an implementation: :class:`Adapter`, the outcomes of a call, and loading of adapters."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import ClassVar

import torch

from conformance.operations import OPERATIONS
from conformance.oracle.contract import Contract, named


class Declined(Exception):
    """Raised by an adapter for a call that its implementation does not offer. Counted and shown, never a pass."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unsupported(Exception):
    """Raised where this machine cannot run a call, which says nothing about the implementation."""


class UsageError(Exception):
    """Raised for a request that cannot be fulfilled; the message is one line that says what to do."""


class Adapter:
    """A method per operation, named after it, with its signature; a missing one is not implemented.

    ``takes`` claims, by operation, which calls an implementation takes: levels of the operation's factors,
    dtypes, and numbers of its sizes (``conform list OPERATION`` prints them), as in
    ``{"rms_norm": {"rank": ("2", "3"), "columns": range(8, 8193, 8)}}``; ``{"rms_norm": {}}`` claims every call.
    All calls inside a claim must run; no call outside of a claim is made. For an operation without a claim, a
    survey finds the calls that run. ``launches`` claims, in the same form, the calls that run in a Triton kernel:
    a dispatcher that leaves one of them to plain PyTorch is right, and its kernel was not judged.

    ``contracts`` names the contract of each operation, or gives it. Declarations are checked: the same bits
    for the same call (``deterministic``), for the same row in any batch (``batch_invariant``), for arguments
    scaled by a power of two (``scale_invariant``); no kernel of its own for every number of rows or eps
    (``few_variants``); meaningless calls refused by a check (``validates``); gradients, or a refusal of arguments
    that require one (``differentiable``); calls that ``torch.compile`` takes whole (``compiles``), and that a
    CUDA graph can record (``graphs``). ``flushes`` allows zero for results below
    2**-126, ``running_variance`` NaN and zero in rows whose sum of squares comes near the largest float32 or
    passes it, ``fuses`` products that are rounded or not before they are added, as a compiler decides. Fresh
    outputs have ``strides`` that are ``"dense"`` (in any order of dimensions), ``"contiguous"``, or those of
    elementwise operations on x (``"like_input"``). Rows of ``zero_columns`` are judged only where that is
    declared. A kernel may be compiled for every number that it ``specialises`` on: ``"rows"``, ``"eps"``. Each of
    these may be a table of operations. ``reference`` names a known adapter that ``parity`` compares with.
    ``package`` names the distribution whose version belongs into a report. An adapter never sees an expected
    value.

    A method with an underscore after an operation's name, and its signature, is the in-place form: it writes each
    output over an argument (y over x, s over the residual) and returns those arguments, or nothing. With fp8
    values only the sum overwrites an argument: that form returns all outputs, the residual among them.
    One that ends in ``_out`` also takes ``out=``, a tuple with a tensor for each output, in their order: it writes
    the outputs there, and returns them or nothing. These are contiguous; with ``strided_outputs``, of any strides.
    """

    name: str = ""
    package: str = ""
    takes: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    launches: Mapping[str, Mapping[str, object]] = MappingProxyType({})
    contracts: ClassVar[Mapping[str, str | Contract]] = {}
    deterministic: bool | Mapping[str, bool] = True
    batch_invariant: bool | Mapping[str, bool] = True
    scale_invariant: bool | Mapping[str, bool] = True
    few_variants: bool | Mapping[str, bool] = True
    validates: bool | Mapping[str, bool] = False
    differentiable: bool | Mapping[str, bool] = False
    compiles: bool | Mapping[str, bool] = False
    graphs: bool | Mapping[str, bool] = False
    flushes: bool | Mapping[str, bool] = False
    running_variance: bool | Mapping[str, bool] = False
    fuses: bool | Mapping[str, bool] = False
    zero_columns: bool | Mapping[str, bool] = False
    strided_outputs: bool | Mapping[str, bool] = False
    strides: str | Mapping[str, str] = "dense"
    specialises: tuple[str, ...] | Mapping[str, tuple[str, ...]] = ()
    reference: str | None = None

    def contract(self, operation: str) -> Contract:
        """Return the declared contract of an operation. Raises ``UsageError`` where none is declared."""
        if operation not in self.contracts:
            message = (
                f"{type(self).__name__}: contracts has no entry for {operation!r}, "
                f"give it a name such as 'fp32' or a Contract"
            )
            raise UsageError(message)
        try:
            return named(self.contracts[operation], OPERATIONS[operation].rounds)
        except ValueError as error:
            message = f"{type(self).__name__}: {error}"
            raise UsageError(message) from error

    def path(self, operation: str, arguments: Mapping[str, object]) -> str | None:
        """Return the path of a call, such as ``"rows/decode128"``; None where the implementation cannot say.

        A path whose name starts with ``native`` promises to launch no Triton kernel; any other to launch one
        at least, and to copy no tensor.
        """
        return None

    def row_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the row counts at which the implementation changes its path: both sides of each are judged."""
        return ()

    def column_thresholds(self, operation: str) -> tuple[int, ...]:
        """Return the widths at which the implementation changes its path."""
        return ()


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """A call that returned tensors. ``path`` is the path that ran, as the adapter reports it, or None."""

    outputs: tuple[torch.Tensor, ...]
    path: str | None


@dataclass(frozen=True, slots=True)
class Crashed:
    """A call that raised, or ended its process. ``how`` is the exception or the signal, with its source line."""

    how: str
    trace: str = ""  # a short traceback of an exception


# errors of CUDA and HIP through PyTorch and Triton; running out of memory alone leaves the context as it was
_POISON = re.compile(r"AcceleratorError|\b(?:CUDA|HIP) (?:driver )?error: |Triton Error \[\w+\]: ")


def poisons(how: str) -> bool:
    """Return whether a crash, by its message, may leave the GPU unusable for its process: later calls fail too."""
    return _POISON.search(how) is not None


@dataclass(frozen=True, slots=True)
class Hung:
    """A call that did not return in time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Misreturned:
    """A call that returned something other than tensors. ``what`` names it and what was expected."""

    what: str


@dataclass(frozen=True, slots=True)
class Unable:
    """A call that this machine cannot run, with any implementation."""

    reason: str


Outcome = Ran | Declined | Crashed | Hung | Misreturned | Unable


# the known implementations; imported only when asked for
KNOWN = {
    "normkernels": "conformance.adapters.normkernels:NormKernels",
    "native": "conformance.adapters.native:Native",
    "torch": "conformance.adapters.torch:Torch",
    "transformers": "conformance.adapters.transformers:Transformers",
    "compile": "conformance.adapters.compile:Compile",
    "liger": "conformance.adapters.liger:Liger",
    "fla": "conformance.adapters.fla:FlaNorms",
    "fla-layernorm-gated": "conformance.adapters.fla:FlaLayerNormGated",
    "mamba": "conformance.adapters.mamba:Mamba",
    "unsloth": "conformance.adapters.unsloth:Unsloth",
    "xformers": "conformance.adapters.xformers:XFormers",
    "torchnorm": "conformance.adapters.torchnorm:TorchNorm",
    "vllm": "conformance.adapters.vllm:Vllm",
    "vllm-mamba": "conformance.adapters.vllm:VllmMamba",
    "quack": "conformance.adapters.quack:Quack",
    "flashinfer": "conformance.adapters.flashinfer:FlashInfer",
    "original": "conformance.adapters.original:Original",
    "multi-row": "conformance.adapters.multi_row:MultiRow",
    "eager": "conformance.adapters.eager:Eager",
    "compile-static": "conformance.adapters.compiled:Compiled",
    "compile-autotuned": "conformance.adapters.compiled:Autotuned",
    "two-steps": "conformance.adapters.two_steps:TwoSteps",
}


def load(target: str) -> Adapter:
    """Return the adapter of a known name, ``package.module:Class`` or ``file.py:Class``.

    Raises ``UsageError`` with one line that says what to do.
    """
    chosen = find(target)
    adapter = chosen()
    adapter.name = adapter.name or chosen.__name__.lower()
    return adapter


def find(target: str) -> type[Adapter]:
    """Return the class of an adapter, which imports no implementation until it is made. Raises as ``load``."""
    place, wanted = split(KNOWN.get(target, target))
    module = _module(place, target)
    classes = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Adapter) and value.__module__ == module.__name__
    }
    if wanted and wanted not in classes:
        message = f"{target}: {place} has no adapter {wanted!r}, it has {sorted(classes) or 'none'}"
        raise UsageError(message)
    if not wanted and len(classes) != 1:
        found = f"say which: {target}:{{{','.join(sorted(classes))}}}" if classes else _WRITE_ONE
        message = f"{target}: has {len(classes)} adapters, {found}"
        raise UsageError(message)
    return classes[wanted] if wanted else next(iter(classes.values()))


def split(target: str) -> tuple[str, str]:
    """Return the file or module of a target, and the class that it names, or nothing. A path may have colons."""
    if target.endswith(".py"):
        return target, ""
    file, mark, wanted = target.rpartition(".py:")
    if mark:
        return f"{file}.py", wanted
    place, _, wanted = target.partition(":")
    return place, wanted


_WRITE_ONE = "subclass conformance.Adapter there ('conform init FILE' writes one to fill in)"


def _module(place: str, target: str) -> ModuleType:
    try:
        if place.endswith(".py"):
            return _from_file(Path(place))
        if "." not in place and ":" not in target:
            message = (
                f"unknown target {target!r}: known are {', '.join(KNOWN)}; "
                f"or give package.module:Class or file.py:Class"
            )
            raise UsageError(message)
        return importlib.import_module(place)
    except ImportError as error:
        message = f"{target}: cannot import it: {error}"
        raise UsageError(message) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        quoted = shlex.quote(str(path))
        message = f"{path}: no such file; to write an adapter to fill in: conform init {quoted}"
        raise UsageError(message)
    return imported(path, "adapter")


def imported(path: Path, what: str) -> ModuleType:
    """Return the module of a Python file, newly imported; ``what`` it holds is part of the module's name."""
    # Triton's interpreter reads a kernel's source through its module, which must therefore be registered
    name = f"conform_{what}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        message = f"{path}: is not a Python file"
        raise UsageError(message)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module
