"""Global state around calls: what the suite computes with stays the suite's, whatever an implementation changes.

Importing an implementation may set a default dtype, or replace ``torch.empty``, and a call may. The suite's own
state is captured before the import. Around every call the implementation has the state that its import left; what
a call changes beyond that is noted, and the suite's state put back.

Random number generators are left alone: the suite draws from its own, and a generator that is put back would make
an implementation that draws numbers look deterministic.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules import module as modules
from torch.utils import _python_dispatch as dispatch

SMALL = 5e-324  # flushed to zero where a processor is told so


@dataclass(frozen=True, slots=True)
class Setting:
    """A part of the global state: its name in a sentence, how it is read and how it is set.

    ``harmless``: a call may change it without a word, as long as it is put back.
    """

    words: str
    get: Callable[[], Any]
    put: Callable[[Any], object]
    harmless: bool = False


_HELD: list[Any] = []  # contexts that were entered to leave others, for good


def _default_device() -> torch.device | None:
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)  # noqa: SLF001 - no public reader says None
    return None if context is None else context.device


def _put_inference(inference: bool) -> None:  # noqa: FBT001 - of a table
    context = torch.inference_mode(mode=inference)
    context.__enter__()
    _HELD.append(context)


def _autocast() -> tuple[tuple[bool, torch.dtype], ...]:
    return tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _KINDS)


def _put_autocast(state: Sequence[tuple[bool, torch.dtype]]) -> None:
    for kind, (enabled, dtype) in zip(_KINDS, state, strict=True):
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


_KINDS = ("cpu", "cuda")

SETTINGS = (
    Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("the default device", _default_device, torch.set_default_device),
    Setting("inference mode", torch.is_inference_mode_enabled, _put_inference),
    Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("autocast", _autocast, _put_autocast),
    Setting("deterministic algorithms", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    Setting("float32 matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    Setting("flushing of subnormal numbers", lambda: SMALL * 1.0 == 0.0, torch.set_flush_denormal),
    Setting("the working directory", os.getcwd, os.chdir),
    Setting("the number of threads", torch.get_num_threads, torch.set_num_threads, harmless=True),
)

# whose functions the suite computes with
_OWNERS: Mapping[str, Any] = {
    "torch": torch,
    "torch.Tensor": torch.Tensor,
    "torch.nn.functional": torch.nn.functional,
}
_HOOKS = tuple(
    name for name, value in vars(modules).items() if name.startswith("_global_") and isinstance(value, dict)
)


@dataclass(frozen=True, slots=True)
class State:
    """All that is looked after, at one moment."""

    settings: tuple[Any, ...]
    attributes: tuple[dict[str, Any], ...]
    hooks: tuple[dict[Any, Any], ...]
    environment: dict[bytes, bytes]


def captured() -> State:
    """Return the state of this moment."""
    # replaces functions of torch when it is imported, which some calls have it do
    importlib.import_module("torch._dynamo")
    return State(
        tuple(setting.get() for setting in SETTINGS),
        tuple(vars(owner).copy() for owner in _OWNERS.values()),
        tuple(dict(getattr(modules, name)) for name in _HOOKS),
        # bytes, as the system has them: decoding takes longer than all the rest
        vars(os.environ)["_data"].copy(),
    )


def differences(before: State, after: State, *, harmless: bool = False) -> tuple[str, ...]:
    """Return what changed, in words; of harmless settings only if asked."""
    found = []
    if before.settings != after.settings:
        found += [
            f"{setting.words} from {_told(a)} to {_told(b)}"
            for setting, a, b in zip(SETTINGS, before.settings, after.settings, strict=True)
            if a != b and (harmless or not setting.harmless)
        ]
    for owner, a, b in zip(_OWNERS, before.attributes, after.attributes, strict=True):
        found += [f"{owner}.{name}" for name in _replaced(_OWNERS[owner], a, b)]
    if before.hooks != after.hooks:
        found.append("the hooks of all modules")
    found += [f"the environment variable {os.fsdecode(name)}" for name in _reset(before, after)]
    return tuple(found)


def _told(value: object) -> str:
    return "none" if value is None else str(value).removeprefix("torch.")


def _replaced(owner: object, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of functions that were replaced, removed, or put before one that a class inherits."""
    if tuple(before.values()) == tuple(after.values()):
        return []
    found = [
        name
        for name, value in before.items()
        if callable(value) and not isinstance(value, type) and after.get(name) is not value
    ]
    bases = owner.__mro__[1:] if isinstance(owner, type) else ()
    return found + [name for name in after if name not in before and any(name in vars(base) for base in bases)]


def _reset(before: State, after: State) -> list[bytes]:
    """Return the environment variables with another value, or none; a new one is nothing to the suite."""
    if before.environment == after.environment:
        return []
    return [name for name, value in before.environment.items() if after.environment.get(name) != value]


def put(state: State, now: State) -> None:
    """Bring this process from the state that it is in to another, as far as that is possible."""
    for setting, wanted, has in zip(SETTINGS, state.settings, now.settings, strict=True):
        if wanted != has:
            # what cannot be put back shows when the state is captured again
            with contextlib.suppress(RuntimeError, OSError, ValueError):
                setting.put(wanted)
    for owner, wanted, has in zip(_OWNERS.values(), state.attributes, now.attributes, strict=True):
        for name in _replaced(owner, wanted, has):
            if name in wanted:
                setattr(owner, name, wanted[name])
            else:
                delattr(owner, name)
    for name, wanted, has in zip(_HOOKS, state.hooks, now.hooks, strict=True):
        if wanted != has:
            hooks = getattr(modules, name)
            hooks.clear()
            hooks.update(wanted)
    for variable in _reset(state, now):
        os.environ[os.fsdecode(variable)] = os.fsdecode(state.environment[variable])


@dataclass(slots=True, eq=False)
class _Process:
    """Facts about this process: both states, where an implementation was imported, and what calls did."""

    ours: State | None = None
    theirs: State | None = None
    inside: bool = False  # a call is being made
    stuck: bool = False  # something could not be put back
    notes: list[str] | None = None


_PROCESS = _Process()


def settle(before: State) -> tuple[str, ...]:
    """Put back the state from before an import, keep what it left for its calls; return what it changed."""
    modes = _leave_modes((0, 0))
    left = captured()
    put(before, left)
    _PROCESS.ours = captured()
    changed = differences(before, left, harmless=True)
    _PROCESS.theirs = left if changed else _PROCESS.ours
    return (*changed, *modes)


def healthy() -> bool:
    """Tell whether this process computes as it did before the first call."""
    return not _PROCESS.stuck


@contextlib.contextmanager
def noticed() -> Iterator[list[str]]:
    """Collect what calls inside change, once each."""
    outer, _PROCESS.notes = _PROCESS.notes, []
    try:
        yield _PROCESS.notes
    finally:
        _PROCESS.notes = outer


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Give a call the state that its import left, and put the suite's back. Calls inside are part of it."""
    if _PROCESS.inside:
        yield
        return
    ours = _PROCESS.ours or captured()
    theirs = _PROCESS.theirs or ours
    modes = _modes()
    if theirs is not ours:
        put(theirs, ours)
    _PROCESS.inside = True
    try:
        yield
    finally:
        _PROCESS.inside = False
        _settle_call(ours, theirs, modes)


def _settle_call(ours: State, theirs: State, modes: tuple[int, int]) -> None:
    entered = _leave_modes(modes)
    now = captured()
    changed = (*differences(theirs, now), *entered)
    if _PROCESS.notes is not None:
        _PROCESS.notes += [words for words in changed if words not in _PROCESS.notes]
    if changed or theirs is not ours or ours.settings != now.settings:
        put(ours, now)
        _PROCESS.stuck |= bool(differences(ours, captured(), harmless=True))
    _PROCESS.stuck |= modes != _modes()


def _modes() -> tuple[int, int]:
    """Return how many modes of torch functions and of dispatch are entered; the default device's aside."""
    functions: int = torch._C._len_torch_function_stack() - (_default_device() is not None)  # noqa: SLF001
    dispatched: int = torch._C._len_torch_dispatch_stack()  # noqa: SLF001
    return functions, dispatched


def _leave_modes(wanted: tuple[int, int]) -> list[str]:
    """Leave modes until as many are entered as wanted; return what was left, in words."""
    functions, dispatched = (max(0, has - want) for has, want in zip(_modes(), wanted, strict=True))
    for _ in range(functions):
        # entered by code that is no longer there to leave them
        torch.overrides._pop_mode()  # type: ignore[no-untyped-call]  # noqa: SLF001
    for _ in range(dispatched):
        # torch 2.10 returns one that nobody holds after it is gone
        held = dispatch._get_current_dispatch_mode()  # noqa: SLF001
        dispatch._pop_mode()  # noqa: SLF001
        del held
    return [
        f"the stack of {kind} modes" for kind, left in (("function", functions), ("dispatch", dispatched)) if left
    ]
