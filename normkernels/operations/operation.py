"""The record of an operation, and the run of a call: looked up or decided, then launched or computed natively."""

import os
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from inspect import Signature
from typing import Any, ClassVar

import torch

from normkernels import checks, dispatch
from normkernels.call import Call, Device
from normkernels.dispatch import Decision, Kernels, Path
from normkernels.errors import InvalidCall
from normkernels.launch import Arguments, Buffers, Counts, Launches, how, why_not_direct
from normkernels.plans import Plan

ENVIRONMENT = "NORMKERNELS_PATH"
# More keys than the calls of a model have; a caller that varies eps or widths must not make the cache grow on.
_MAX_CACHED = 1024

# All arguments of a call by name.
Given = Mapping[str, Any]
# The flags of a call, checked, as native forms and kernel arguments take them.
Flags = Mapping[str, Any]
# The tensors of a call, in the order of the public function's signature. Any: a tensor, or None if not given.
Tensors = Sequence[Any]
# Any: one tensor or several, as the operation says.
Results = Any


class Operation(Kernels):
    """One public function: checks, description, native form, paths and kernel arguments of its calls."""

    # Arguments that results are written into, each with the inputs that it may be; the last tensors of a call.
    outputs: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    in_place: ClassVar[bool] = False
    indexed: ClassVar[bool] = False  # whether values are indices
    # The pointer whose alignment the kernel does not depend on.
    anywhere: ClassVar[int | None] = None

    def __init__(self, name: str, signature: Signature) -> None:
        """Take the names of tensors and flags from the ``signature`` of the public function."""
        self.name, self.signature = name, signature
        types = {each.name: str(each.annotation) for each in signature.parameters.values()}
        self.tensors = tuple(each for each, kind in types.items() if kind.startswith("torch.Tensor"))
        self.flags = tuple(each for each in types if each not in self.tensors)
        self.names = (*self.tensors, *self.flags)
        self._inputs = len(self.tensors) - len(self.outputs)

    @property
    def family(self) -> str:
        """Return the name in decisions: an in-place form has the paths of the other form."""
        return self.name.removesuffix("_")

    def by_name(self, tensors: Tensors, flags: Sequence[object]) -> Given:
        """Return the arguments of a call by name."""
        return dict(zip(self.names, (*tensors, *flags), strict=True))

    @abstractmethod
    def key(self, tensors: Tensors, flags: tuple[object, ...]) -> Hashable:
        """Return all that a decision and a kernel's arguments depend on, counts apart; None: not cached."""

    @abstractmethod
    def resolve(self, given: Given) -> Flags:
        """Check types, dtypes, shapes and flags, but neither memory nor values; return the flags for the paths."""

    def check_values(self, tensors: Tensors) -> None:
        """Check values that are indices; keys do not contain them."""

    def writes(self, tensors: Tensors) -> bool:
        """Return whether a call writes into memory of the caller."""
        for each in tensors[self._inputs :]:
            if each is not None:
                return True
        return self.in_place

    @abstractmethod
    def check_memory(self, tensors: Tensors) -> None:
        """Check the addresses of the tensors of a call that writes into memory of the caller."""

    @abstractmethod
    def describe(self, given: Given, flags: Flags) -> Call:
        """Describe a checked call."""

    @abstractmethod
    def native(self, tensors: Tensors, flags: Flags) -> Results:
        """Compute a call in PyTorch, and write into outputs that are given."""

    @abstractmethod
    def buffers(self, tensors: Tensors, flags: Flags) -> Buffers:
        """Return the tensors that the kernel points to, in its order; allocate outputs that are not given."""

    @abstractmethod
    def counts(self, tensors: Tensors, flags: Flags) -> Counts:
        """Return the counts, which may differ between calls of one key; without rows nothing is launched."""

    @abstractmethod
    def arguments(self, flags: Flags, buffers: Buffers, plan: Plan) -> Arguments:
        """Return the kernel and its arguments by name, without pointers and counts."""

    @abstractmethod
    def results(self, buffers: Buffers) -> Results:
        """Return the results among the buffers."""


# Operations by name; ``api`` adds them.
OPERATIONS: dict[str, Operation] = {}


@dataclass(frozen=True, slots=True)
class Cached:
    """The cached outcome of a key: how to run every call that has it."""

    flags: Flags
    launches: Launches | None  # None: natively
    writes: bool  # into memory of the caller
    checked: set[Hashable]  # counts and addresses of calls whose memory was checked


_cache: dict[Hashable, Cached] = {}


def run(name: str, tensors: Tensors, flags: tuple[object, ...]) -> Results:
    """Run a call; ``tensors`` and ``flags`` are its arguments in the order of the signature."""
    operation = OPERATIONS[name]
    key = operation.key(tensors, flags)
    try:
        cached = _cache.get(key)
    except TypeError:
        # a flag that cannot be hashed, and has no meaning
        key = cached = None
    if cached is None:
        cached = _prepare(operation, tensors, flags, key)
    elif operation.indexed:
        operation.check_values(tensors)
    resolved, launches = cached.flags, cached.launches
    if launches is None:
        if cached.writes:
            operation.check_memory(tensors)
        return operation.native(tensors, resolved)
    counts = operation.counts(tensors, resolved)
    if cached.writes:
        _check_memory(operation, tensors, counts, cached)
    buffers = operation.buffers(tensors, resolved)
    if counts[0]:
        launches.start(buffers, counts)
    return operation.results(buffers)


def _check_memory(operation: Operation, tensors: Tensors, counts: Counts, cached: Cached) -> None:
    """Check the memory of a call, unless a call of the same key had the same counts and addresses."""
    places = *counts, *[each.data_ptr() for each in tensors if each is not None]
    if places not in cached.checked:
        operation.check_memory(tensors)
        if len(cached.checked) >= _MAX_CACHED:
            cached.checked.clear()
        cached.checked.add(places)


def _prepare(operation: Operation, tensors: Tensors, flags: tuple[object, ...], key: Hashable) -> Cached:
    """Check, describe and decide a call, and cache the outcome under its key."""
    given = operation.by_name(tensors, flags)
    call, resolved = _described(operation, given)
    device, launches = Device.of(tensors[0]), None
    if decide(operation, call, device, given["path"]).path is not Path.NATIVE:
        launches = Launches(
            tensors[0].device,
            lambda rows: operation.plan(replace(call, rows=rows), device)[0],
            partial(operation.arguments, resolved),
            operation.anywhere,
        )
    cached = Cached(resolved, launches, operation.writes(tensors), set())
    if key is not None:
        if len(_cache) >= _MAX_CACHED:
            _cache.clear()
        _cache[key] = cached
    return cached


def _described(operation: Operation, given: Given) -> tuple[Call, Flags]:
    flags = operation.resolve(given)
    tensors = [given[name] for name in operation.tensors]
    operation.check_values(tensors)
    if operation.writes(tensors):
        operation.check_memory(tensors)
    return operation.describe(given, flags), flags


def decide(operation: Operation, call: Call, device: Device, path: object) -> Decision:
    """Return the decision on a call, whose ``path`` overrides that of the environment."""
    if path is not None:
        checks.choice(operation.family, "path", str(path), (str(operation.path), str(Path.NATIVE)))
        return dispatch.decide(operation, call, device, Path(str(path)))
    forced = Path.NATIVE if operation.family in _forced() else None
    return dispatch.decide(operation, call, device, forced, asked_by=ENVIRONMENT)


# Any: the arguments of the operation
def explain(operation: str, *args: Any, **kwargs: Any) -> Decision:  # noqa: ANN401
    """Return the decision on a call without running it; the arguments are those of the operation."""
    checks.choice("explain", "operation", operation, tuple(OPERATIONS))
    record = OPERATIONS[operation]
    bound = record.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    call, _ = _described(record, bound.arguments)
    tensors = [bound.arguments[name] for name in record.tensors]
    decision = decide(record, call, Device.of(tensors[0]), bound.arguments["path"])
    if decision.plan is None:
        return decision
    depends = [each for place, each in enumerate(tensors) if each is not None and place != record.anywhere]
    return replace(decision, launched=how(depends))


@cache
def _forced() -> frozenset[str]:
    """Return the operations that the environment sends to ``native``; it is read once."""
    text = os.environ.get(ENVIRONMENT, "")
    every = [name for name, operation in OPERATIONS.items() if name == operation.family]
    if text == Path.NATIVE:
        return frozenset(every)
    pairs = [part.partition("=") for part in text.split(",")] if text else []
    if any(name not in every or path != Path.NATIVE for name, _, path in pairs):
        allowed = ", ".join(f"{name}=native" for name in every)
        raise InvalidCall(f"{ENVIRONMENT}={text!r}, must be native or a comma-separated list of {allowed}")
    return frozenset(name for name, _, _ in pairs)


def memory(given: torch.Tensor | None, x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return the tensor to write a result into: the given one, or a contiguous one in x's shape, device and dtype.

    The version of a given tensor goes up, as in any operation of PyTorch that writes to it.
    """
    if given is None:
        # takes half the time of torch.empty with shape, dtype and device
        return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
    torch.autograd.graph.increment_version(given)
    return given


def reread_environment() -> None:
    """Drop the values read from the environment, and every decision made with them."""
    _forced.cache_clear()
    why_not_direct.cache_clear()
    _cache.clear()
