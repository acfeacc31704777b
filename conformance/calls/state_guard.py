"""Guard of global state around calls: the suite computes with its own state, even if an implementation changes it.

Importing an implementation may set a default dtype, or replace ``torch.empty``, and so may a call. The suite's
own state is captured before the import. During every call the implementation has the state that its import left;
changes that a call makes beyond that are noted, and the suite's state is restored.

Random number generators are left alone: the suite draws from its own, and restoring a generator would make an
implementation that draws numbers look deterministic.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.modules import module as modules
from torch.utils import _python_dispatch as dispatch

SMALL = 5e-324  # flushed to zero where a processor is set to flush subnormals


@dataclass(frozen=True, slots=True)
class Setting:
    """A part of the global state: its name in a sentence, its reader and its writer.

    ``harmless``: a call may change the setting without a report, as long as it is put back.
    """

    words: str
    get: Callable[[], Any]
    put: Callable[[Any], object]
    harmless: bool = False


_HELD: list[Any] = []  # contexts that were entered for good, to leave others


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

# the owners of functions that the suite computes with
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
    """The guarded state at one moment."""

    settings: tuple[Any, ...]
    attributes: tuple[dict[str, Any], ...]
    values: tuple[tuple[Any, ...], ...]  # of the attributes
    hooks: tuple[dict[Any, Any], ...]
    environment: dict[bytes, bytes]


def captured() -> State:
    """Return the current state."""
    # importing torch._dynamo replaces functions of torch, and some calls import it
    if "torch._dynamo" not in sys.modules:
        importlib.import_module("torch._dynamo")
    attributes = tuple(vars(owner).copy() for owner in _OWNERS.values())
    return State(
        tuple(setting.get() for setting in SETTINGS),
        attributes,
        tuple(tuple(found.values()) for found in attributes),
        tuple(dict(getattr(modules, name)) for name in _HOOKS),
        # bytes, as the system has them: decoding takes longer than all other parts together
        vars(os.environ)["_data"].copy(),
    )


def unchanged(before: State) -> bool:
    """Return whether a state is the current one still, which a call that leaves it alone is asked at once."""
    now = zip(_OWNERS.values(), before.attributes, before.values, strict=True)
    return (
        before.settings == tuple(setting.get() for setting in SETTINGS)
        and before.environment == vars(os.environ)["_data"]
        and all(kept == getattr(modules, name) for name, kept in zip(_HOOKS, before.hooks, strict=True))
        and all(
            values == (found := tuple(vars(owner).values())) or _harmless(owner, attributes, found)
            for owner, attributes, values in now
        )
    )


def differences(before: State, after: State, *, harmless: bool = False) -> tuple[str, ...]:
    """Return the changes in words, those of harmless settings only if asked."""
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
    """Return the names of functions that were replaced, removed, or now hide an inherited one."""
    values = tuple(after.values())
    if tuple(before.values()) == values or _harmless(owner, before, values):
        return []
    found = [
        name
        for name, value in before.items()
        if callable(value) and not isinstance(value, type) and after.get(name) is not value
    ]
    bases = owner.__mro__[1:] if isinstance(owner, type) else ()
    found += [name for name in after if name not in before and any(name in vars(base) for base in bases)]
    if not found:
        _PROCESS.harmless[owner] = before, values
    return found


def _harmless(owner: object, before: Mapping[str, Any], values: tuple[Any, ...]) -> bool:
    """Return whether the same change was found to replace nothing the last time."""
    known, found = _PROCESS.harmless.get(owner, (None, ()))
    return known is before and found == values


def _reset(before: State, after: State) -> list[bytes]:
    """Return the environment variables that were changed or removed; a new one does not affect the suite."""
    if before.environment == after.environment:
        return []
    return [name for name, value in before.environment.items() if after.environment.get(name) != value]


def put(state: State, now: State) -> None:
    """Set the state of this process to ``state`` from ``now``, as far as that is possible."""
    for setting, wanted, has in zip(SETTINGS, state.settings, now.settings, strict=True):
        if wanted != has:
            # a setting that cannot be put back shows when the state is captured again
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
    """Facts about this process: both states, if an implementation was imported, and the changes of calls."""

    ours: State | None = None
    theirs: State | None = None
    inside: bool = False  # a call is being made
    stuck: bool = False  # something could not be put back
    notes: list[str] | None = None
    # Per owner, the last change that replaced nothing: its attributes differ so at every call that follows.
    harmless: dict[object, tuple[Mapping[str, Any], tuple[Any, ...]]] = field(default_factory=dict)


_PROCESS = _Process()


def settle(before: State) -> tuple[str, ...]:
    """Restore the state from before an import, keep the state after it for calls, and return the changes."""
    modes = _leave_modes((0, 0))
    left = captured()
    put(before, left)
    _PROCESS.ours = captured()
    changed = differences(before, left, harmless=True)
    _PROCESS.theirs = left if changed else _PROCESS.ours
    return (*changed, *modes)


def healthy() -> bool:
    """Return whether this process computes as it did before the first call."""
    return not _PROCESS.stuck


@contextlib.contextmanager
def noticed() -> Iterator[list[str]]:
    """Collect the changes of calls inside, each once."""
    outer, _PROCESS.notes = _PROCESS.notes, []
    try:
        yield _PROCESS.notes
    finally:
        _PROCESS.notes = outer


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Set the state that the import left for a call, then restore the suite's. Calls inside are part of it."""
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
    if theirs is ours and modes == _modes() and unchanged(ours):
        return
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
    """Return the number of entered modes of torch functions and of dispatch, without the default device's."""
    functions: int = torch._C._len_torch_function_stack() - (_default_device() is not None)  # noqa: SLF001
    dispatched: int = torch._C._len_torch_dispatch_stack()  # noqa: SLF001
    return functions, dispatched


def _leave_modes(wanted: tuple[int, int]) -> list[str]:
    """Leave modes until ``wanted`` are entered; return the kinds of those left, in words."""
    functions, dispatched = (max(0, has - want) for has, want in zip(_modes(), wanted, strict=True))
    for _ in range(functions):
        # the code that entered these modes no longer runs, and cannot leave them
        torch.overrides._pop_mode()  # type: ignore[no-untyped-call]  # noqa: SLF001
    for _ in range(dispatched):
        # torch 2.10 crashes where nothing else refers to the mode
        held = dispatch._get_current_dispatch_mode()  # noqa: SLF001
        dispatch._pop_mode()  # noqa: SLF001
        del held
    return [
        f"the stack of {kind} modes" for kind, left in (("function", functions), ("dispatch", dispatched)) if left
    ]
