"""C beneath a direct launch: built as Triton builds, told what Triton would pass, careful with what it gets."""

from __future__ import annotations

import ctypes
import gc
import shutil
import subprocess
import sys
import sysconfig
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import normkernels
from conformance.package.gated_calls import DEVICE
from conformance.package.test_launch import Compiled, Gpu, gpu, rows_of
from conformance.package.test_shortcuts import CALLS, call
from normkernels import direct, launch, routes, shortcuts

__all__ = ["gpu"]  # a fixture

# before a stand-in takes its place
LAUNCH_FUNCTION = direct.launch_function.__wrapped__
SOURCE = Path(direct.__file__).with_name("direct.c")


def test_the_c_compiles_without_a_warning(tmp_path: Path) -> None:
    """By the compiler that Triton would take, all warnings asked for, of which none is wrong here but two."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    assert compiler is not None, "Triton needs gcc or clang, and so does this test"
    # a type's missing members are zero; a method is cast as Python asks for
    quiet = ["-Wno-missing-field-initializers", "-Wno-cast-function-type"]
    options = ["-Wall", "-Wextra", "-Werror", "-std=c11", *quiet, "-shared", "-fPIC"]
    include = sysconfig.get_paths()["include"]
    command = [compiler, *options, f"-I{include}", str(SOURCE), "-o", str(tmp_path / "direct.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_without_a_compiler_kernels_are_launched_by_triton(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ``explain`` says what is missing."""
    monkeypatch.setattr(direct, "_built", lambda: direct.NotBuilt("RuntimeError: Failed to find C compiler."))
    for _ in range(3):
        normkernels.rms_norm(**rows_of())

    assert [False, False, False] == [start.directly for start in gpu.starts]
    launched = str(normkernels.explain("rms_norm", **rows_of()).launched)
    assert "got RuntimeError: Failed to find C compiler" in launched


def test_without_a_driver_kernels_are_launched_by_triton(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not found by its name is no reason for a call to fail."""
    asked: list[str] = []

    def missing(name: str) -> object:
        asked.append(name)
        raise OSError("cannot open shared object file")

    monkeypatch.setattr(direct, "launch_function", LAUNCH_FUNCTION)
    monkeypatch.setattr(ctypes, "CDLL", missing)
    for _ in range(3):
        normkernels.rms_norm(**rows_of())

    assert [False, False, False] == [start.directly for start in gpu.starts]
    assert "libcuda.so.1" in asked
    assert "OSError: cannot open" in str(normkernels.explain("rms_norm", **rows_of()).launched)


def test_what_a_compiler_raises_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without one says so each time, having looked once."""
    asked: list[str] = []

    def fails(_source: str, name: str) -> object:
        asked.append(name)
        raise subprocess.CalledProcessError(1, ["gcc"])

    from triton.runtime import build

    monkeypatch.setattr(build, "compile_module_from_src", fails)
    direct._built.cache_clear()
    try:
        for _ in range(2):
            with pytest.raises(direct.NotBuilt, match=r"CalledProcessError: .*gcc"):
                direct.built()
    finally:
        direct._built.cache_clear()
    assert ["normkernels_direct"] == asked


PLAIN: dict[str, Any] = {
    "num_ctas": 1,
    "global_scratch_size": 0,
    "profile_scratch_size": 0,
    "launch_cooperative_grid": False,
    "launch_pdl": False,
}


def compiled(**metadata: object) -> Any:
    """Return what a compiled kernel says of itself, started by Triton's launcher."""
    from triton.backends.nvidia.driver import CudaLauncher

    run = object.__new__(CudaLauncher)
    return SimpleNamespace(_run=run, metadata=SimpleNamespace(**PLAIN | metadata))


@pytest.mark.parametrize("others", [{name: 2} for name in PLAIN], ids=list(PLAIN))
def test_a_kernel_that_needs_more_is_launched_by_triton(others: dict[str, int]) -> None:
    """Clusters, scratch memory and launches that depend on another are Triton's to provide."""
    assert direct.is_plain(compiled())
    assert not direct.is_plain(compiled(**others))


def test_another_launcher_is_not_passed_by() -> None:
    """Nor one that was told to sanitize."""
    other, sanitized = compiled(), compiled()
    other._run = print
    sanitized._run.gsan_enabled = True

    assert not direct.is_plain(other)
    assert not direct.is_plain(sanitized)


def test_parameters_are_what_a_kernel_takes() -> None:
    """Its arguments that are no constants, in bytes as C has them, and two pointers to no scratch memory."""
    x = torch.ones(4)
    signature = {"x": "*fp32", "N": "constexpr", "rows": "i32", "stride": "i64", "eps": "fp32"}
    kernel = SimpleNamespace(src=SimpleNamespace(signature=signature))
    found = direct.parameters(kernel, list(signature), [x, 128, -2, 2**40, 1e39])
    assert found is not None
    values, places = found

    assert [x.data_ptr(), 2**32 - 2, 2**40, 0x7F800000, 0, 0] == [
        int.from_bytes(each, "little") for each in values
    ]
    assert [8, 4, 8, 4, 8, 8] == [len(each) for each in values]
    assert [0, -1, 1, 2, 3] == places
    kernel.src.signature = signature | {"rows": "tensordesc<fp32[8]>"}
    assert direct.parameters(kernel, list(signature), [x, 128, 1, 1, 1.0]) is None


START: dict[str, Any] = {
    "launch": 0,
    "function": 0,
    "threads": 32,
    "shared": 0,
    "programs": 1,
    "tile": 1,
    "values": (bytes(8), bytes(4), bytes(8), bytes(8)),
    "pointers": 1,
    "counts": (1,),
    "compiled": Compiled(11, SimpleNamespace(), SimpleNamespace()),
    "launcher": None,
    "instead": print,
    "stream_of": print,
    "device": 0,
}


# What no kernel takes, or what there is no room for.
IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "49 parameters": {"values": (bytes(8),) * 49},
    "a short pointer": {"values": (bytes(4),), "counts": (-1,)},
    "9 bytes": {"values": (bytes(8), bytes(9))},
    "no bytes": {"values": (bytes(8), b"")},
    "no pointers": {"pointers": 0},
    "more pointers than parameters": {"pointers": 5},
    "no count": {"counts": ()},
    "a count that is no parameter": {"counts": (4,)},
    "a count before all": {"counts": (-2,)},
    "no rows a program": {"tile": 0},
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_start_that_cannot_be_is_refused(name: str) -> None:
    """Before anything is written past the room that there is."""
    direct.built().Start(**START)
    with pytest.raises(ValueError, match=r"pointer|count"):
        direct.built().Start(**START | IMPOSSIBLE[name])


def test_a_start_takes_its_pointers_and_counts_alone() -> None:
    """Neither more, nor fewer, nor others."""
    start = direct.built().Start(**START)
    for given in ((), ((1,),), ((1, 2), (3,)), ((1,), (2, 3)), ([1], [2]), (("1",), (2,)), ((-1,), (2,))):
        with pytest.raises((TypeError, OverflowError)):
            start.start(*given)


SHORTCUT: dict[str, Any] = {
    "alike": print,
    "settings": ((launch, "ENVIRONMENT", False),),
    "autograd": None,
    "gradient": None,
    "device_of": print,
    "device": 0,
    "starts": [],
    "empty": print,
    "look": None,
    "hold": None,
    "held": set(),
    "held_most": 1,
    "increment": print,
    "same": (0, -1, 2),
    "sized": ((0, 8),),
    "counts": ((-1, 0, 1), (2, 0, 1)),
    "made": (((8,), (8, 1), None, 0),),
    "pointers": (0, 1, 2, 3),
    "anywhere": -1,
    "results": (3,),
    "lone": True,
    "written": (0,),
}
# What no call is, or what there is no room for.
NO_CALL: dict[str, dict[str, Any]] = {
    "no first tensor": {"same": (-1, -1, 2)},
    "nine slots": {"same": tuple(range(9))},
    "the same as one that is not": {"same": (0, 3, 2)},
    "no sizes": {"sized": ()},
    "sizes of nothing": {"sized": ((1, 8),)},
    "sizes without elements": {"sized": ((0, 0),)},
    "no counts": {"counts": ()},
    "five counts": {"counts": ((-1, 0, 1),) * 5},
    "a stride of nothing": {"counts": ((1, 0, 1),)},
    "five outputs": {"made": SHORTCUT["made"] * 5},
    "a pointer to nothing": {"pointers": (4,)},
    "thirteen pointers": {"pointers": (0,) * 13},
    "no results": {"results": ()},
    "two that are one": {"results": (3, 3)},
    "one that is not written": {"written": (3,)},
    "thirteen settings": {"settings": SHORTCUT["settings"] * 13},
}


@pytest.mark.parametrize("name", NO_CALL)
def test_a_shortcut_that_cannot_be_is_refused(name: str) -> None:
    """Before anything is written past the room that there is."""
    direct.built().Shortcut(**SHORTCUT)
    with pytest.raises(ValueError, match=r"needed|room|there|lone"):
        direct.built().Shortcut(**SHORTCUT | NO_CALL[name])


def test_a_shortcut_takes_as_many_arguments_as_its_call(gpu: Gpu) -> None:
    """By place."""
    for _ in range(2):
        normkernels.rms_norm(**rows_of())
    ((again,),) = shortcuts._known.values()
    arguments = rows_of()
    for given, named in (((), {}), ((arguments["x"],), {}), ((arguments["x"], None), {"weight": None})):
        with pytest.raises(TypeError, match="as many arguments"):
            again(*given, **named)

    assert again(arguments["x"], None, arguments["weight"]) is not None
    assert again(None, None, arguments["weight"]) is None
    assert again(arguments["x"], arguments["x"], arguments["weight"]) is None
    assert again(arguments["x"], None, "weight") is None


# Where a shortcut asks somebody, and what then cannot go on.
FAULTS = ["question", "stream", "device", "increment", "memory"]


def _asked(question: Any, *tensors: object) -> object:
    """Ask a question."""
    return question(*tensors)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_raised_inside_is_raised(fault: str, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is swallowed, nothing ends the process, and the next call is launched as before."""

    class Broken(Exception):
        """What somebody raises."""

    broken: list[int] = []

    def raises(*_args: object) -> object:
        if broken:
            raise Broken
        return shipped(*_args)

    operation, arguments = CALLS["in place"] if fault == "increment" else CALLS["residual"]
    if fault == "stream":
        shipped: Any = launch._current_stream
        monkeypatch.setattr(launch, "_current_stream", raises)
    elif fault == "device":
        shipped = launch.current_device
        monkeypatch.setattr(launch, "current_device", raises)
    elif fault == "increment":
        shipped = shortcuts._increment
        monkeypatch.setattr(shortcuts, "_increment", raises)
    elif fault == "memory":
        shipped = shortcuts._empty_beside(torch.ones(1, device=DEVICE))
        monkeypatch.setattr(shortcuts, "_empty_beside", lambda _x: raises)
    else:
        question, shipped = shortcuts._question, _asked
        monkeypatch.setattr(shortcuts, "_question", lambda *made: partial(raises, question(*made)))
    given = arguments()
    for _ in range(2):
        call(operation, given)
    broken.append(1)
    with pytest.raises(Broken):
        call(operation, given)
    broken.clear()
    call(operation, given)

    assert gpu.starts[-1].directly


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_kept_of_a_call(name: str, gpu: Gpu) -> None:
    """Neither its results, nor its arguments, however often it is made."""
    operation, arguments = CALLS[name]
    given = arguments()
    for _ in range(3):
        call(operation, given)
    mine = [each for each in given.values() if isinstance(each, torch.Tensor)]
    before = [sys.getrefcount(each) for each in mine]
    seen = [weakref.ref(each) for _ in range(10) for each in call(operation, given)]
    after = [sys.getrefcount(each) for each in mine]
    left = [each() for each in seen if each() is not None]

    assert before == after
    assert all(any(each is one for one in mine) for each in left)


def test_nothing_is_kept_of_who_counts_launches(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is first launched under somebody's eyes does not keep them open. They see it once a launch."""

    class Eyes:
        """What somebody holds on to while they look."""

    eyes, asked = Eyes(), list[Compiled]()
    seen = weakref.ref(eyes)
    shipped = Compiled.run
    with monkeypatch.context() as patch:

        def run(compiled: Compiled, _eyes: Eyes = eyes) -> object:
            asked.append(compiled)
            return compiled._run

        patch.setattr(Compiled, "run", property(run))
        normkernels.rms_norm(**rows_of())
        # the first is Triton's, which is not there
        assert [] == asked
        normkernels.rms_norm(**rows_of())
        assert [gpu.starts[0].compiled] == asked
    assert Compiled.run is shipped
    del eyes, run
    gc.collect()

    assert gpu.starts[-1].directly
    assert seen() is None


def test_what_is_forgotten_is_freed(gpu: Gpu) -> None:
    """A shortcut, its launches and what they hold are in a ring, which the collector breaks."""
    for _ in range(2):
        normkernels.rms_norm(**rows_of())
    routes.reread_environment()
    gc.collect()

    assert [] == [each for each in gc.get_objects() if type(each) is launch.Repeats and each.starts]
