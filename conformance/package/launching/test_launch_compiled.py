"""A kept kernel gives the driver the same arguments as Triton's own launch, for a GPU that is not present.

Kernels are bound, specialised and compiled as they are for that GPU; only the driver, which would load and start
them, is another. A process that interprets cannot compile, so this file is also a script: it writes one line of
JSON.
"""

from __future__ import annotations

import ctypes
import functools
import json
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conformance.selftest.processes import ran_alone

OPERATIONS = ("rms_norm", "rms_norm_gated", "rms_norm_gated 128", "mrope", "mrope_", "rms_norm_fp8", "gated_fp8")
FUNCTION = 11
# Counts that Triton would specialise differently: one, a multiple of 16, and others.
COUNTS = (1, 15, 16, 17)
# C types of a kernel's parameters, as Triton's signatures name them.
CTYPES: dict[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


@functools.cache
def launched() -> dict[str, dict[str, Any]]:
    """Launch each operation in a separate process and return that process's output."""
    done = ran_alone(f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')", NORMKERNELS_LAUNCH="")
    assert done.returncode == 0, done.stderr[-4000:]
    facts: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return facts


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_kept_kernel_is_started_as_triton_does(name: str) -> None:
    """The second of two calls binds and compiles nothing, and starts the same function with the same arguments."""
    facts = launched()[name]

    assert ["triton", "direct"] == facts["ways"]
    assert facts["starts"][0] == facts["starts"][1]


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_stream_is_asked_for_at_each_launch(name: str) -> None:
    """The stream may be another one at each launch."""
    assert [7, 8] == launched()[name]["streams"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_count_compiles_nothing(name: str) -> None:
    """One kernel serves 1, 15, 16 and 17 rows, whether it was kept or Triton looks it up."""
    facts = launched()[name]

    assert 1 == facts["compiled"]
    assert ["triton", *["direct"] * (len(COUNTS) - 1)] == facts["ways of counts"]
    # in groups, each row is several of the kernel's
    rows = [count * (8 if name == "rms_norm_gated" else 1) for count in COUNTS]
    assert all(count in passed for count, passed in zip(rows, facts["counts"], strict=True))


@pytest.mark.parametrize("name", OPERATIONS)
def test_launch_hooks_are_called(name: str) -> None:
    """Hooks run before and after each launch, also of a kept kernel: profilers depend on them."""
    facts = launched()[name]

    assert ["triton", "direct"] == facts["ways of hooked"]
    assert facts["hooked"] == [["enter", "exit"]] * 2
    assert 1 == len(set(facts["names"]))


@pytest.mark.parametrize("name", OPERATIONS)
def test_who_counts_launches_sees_each(name: str) -> None:
    """Replacing the attribute ``run`` of compiled kernels counts every launch, because each launch reads it."""
    assert [1, 1] == launched()[name]["watched"]


def told(values: Sequence[int | float], results: tuple[torch.Tensor, ...]) -> list[str]:
    """Return a kernel's parameters as JSON values; results by number, because each call has its own."""
    places = {result.data_ptr(): f"result {number}" for number, result in enumerate(results)}
    return [str(places.get(each, each)) if type(each) is int else str(each) for each in values]


def calls() -> dict[str, tuple[str, Callable[[int], dict[str, Any]]]]:
    """Return one call of each kernel: an operation and its arguments, with the given number of rows."""
    low, fp8 = torch.bfloat16, {"fp8_dtype": torch.float8_e4m3fn}
    memory = torch.ones(3, 24, 512, dtype=low)
    weight, cache = torch.ones(512, dtype=low), torch.ones(64, 32)
    positions = torch.zeros(3, 24, dtype=torch.int64)

    def rows(count: int) -> dict[str, Any]:
        return {"x": memory[0, :count], "weight": weight, "eps": 1e-6}

    def residual(count: int) -> dict[str, Any]:
        return rows(count) | {"residual": memory[1, :count]}

    def gated(count: int) -> dict[str, Any]:
        return rows(count) | {"gate": memory[2, :count]}

    def narrow(count: int) -> dict[str, Any]:
        whole = {"x": memory[0].view(-1, 128), "gate": memory[2].view(-1, 128)}
        return {name: each[:count] for name, each in whole.items()} | {"weight": weight[:128], "eps": 1e-6}

    def rotation(count: int) -> dict[str, Any]:
        return {
            "q": memory[0].view(24, 8, 64)[:count, :6],
            "k": memory[0].view(24, 8, 64)[:count, 6:],
            "positions": positions[:, :count],
            "cos": cache[:, :16],
            "sin": cache[:, 16:],
            "sections": (8, 4, 4),
        }

    return {
        "rms_norm": ("rms_norm", residual),
        "rms_norm_gated": ("rms_norm_gated", lambda count: gated(count) | {"group_size": 64}),
        "rms_norm_gated 128": ("rms_norm_gated", narrow),
        "mrope": ("mrope", rotation),
        "mrope_": ("mrope_", rotation),
        "rms_norm_fp8": ("rms_norm_fp8", lambda count: residual(count) | fp8 | {"scale_layout": "column"}),
        "gated_fp8": ("rms_norm_gated_fp8", lambda count: gated(count) | fp8 | {"also_unquantised": True}),
    }


def main() -> None:
    """Launch every operation on a GPU that is not present, and print the driver's arguments."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import CompiledKernel
    from triton.runtime import driver, jit

    import normkernels
    from normkernels import call, plans
    from normkernels.operations.operation import reread_environment

    given: list[tuple[tuple[int, ...], int, int, int, list[Any]]] = []
    by_triton: list[str] = []
    hooks: list[str] = []
    names: list[str] = []
    watched: list[object] = []
    compiled: set[object] = set()
    stream = 7

    class Launcher:
        """Stand-in for the driver's launcher, with the same parameters."""

        def __init__(self, source: Any, _metadata: object) -> None:
            """Build nothing."""
            self.signature = source.signature

        def __call__(self, *args: Any) -> None:
            """Record a start: the values of a kernel's parameters, without its constants."""
            assert FUNCTION == args[4]
            compiled.add(self)
            (num_warps, _num_ctas, shared), metadata, hook_before, hook_after = args[5][:3], *args[6:9]
            for hook in (hook_before, hook_after):
                if hook is not None:
                    hook(metadata)
            pairs = [
                (kind, each)
                for kind, each in zip(self.signature.values(), args[9:], strict=True)
                if kind != "constexpr"
            ]
            values = [
                (each if type(each) is int else each.data_ptr())
                if kind.startswith("*")
                else CTYPES[kind](each).value
                for kind, each in pairs
            ]
            given.append((args[:3], args[3], num_warps * 32, shared, values))

    def run(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        """Record a launch through Triton."""
        by_triton.append(kernel.__name__)
        return shipped(kernel, *args, **kwargs)

    shipped, jit.JITFunction.run = jit.JITFunction.run, run
    driver.set_active(
        SimpleNamespace(
            launcher_cls=Launcher,
            utils=SimpleNamespace(
                load_binary=lambda *_args: (1, FUNCTION, 32, 0, 1024),
                get_device_properties=lambda _device: {"max_shared_mem": 232448},
                unload_module=lambda _module: None,
            ),
            get_current_device=lambda: 0,
            get_current_stream=lambda _device: stream,
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
        )
    )
    machine = call.Device("cuda", has_triton=True, interpreting=False, table=plans.MEASURED)
    call.Device.of = classmethod(lambda _cls, _tensor: machine)  # type: ignore[assignment, method-assign]  # not this one

    def made(operation: str, arguments: dict[str, Any]) -> tuple[str, tuple[Any, ...], tuple[torch.Tensor, ...]]:
        """Make a call; return its launcher, the driver's arguments, and the results."""
        given.clear()
        by_triton.clear()
        results = getattr(normkernels, operation)(**arguments)
        (start,) = given
        return (
            "triton" if by_triton else "direct",
            start,
            results if isinstance(results, tuple) else (results,),
        )

    def enter(metadata: Any) -> None:
        hooks.append("enter")
        names.append(metadata.get()["name"])

    def leave(_metadata: object) -> None:
        hooks.append("exit")

    def noted(kernel: Any) -> Any:
        watched.append(kernel)
        return plain.__get__(kernel)

    plain = vars(CompiledKernel)["run"]
    facts: dict[str, dict[str, Any]] = {}
    for name, (operation, arguments) in calls().items():
        fact: dict[str, Any] = {key: [] for key in ("ways", "starts", "streams", "counts", "hooked", "watched")}
        compiled.clear()
        for stream in (7, 8):  # noqa: B007  (the driver is asked for it)
            way, start, results = made(operation, arguments(24))
            fact["ways"].append(way)
            fact["streams"].append(start[1])
            fact["starts"].append([start[0], *start[2:4], told(start[4], results)])

        reread_environment()
        ways = []
        for count in COUNTS:
            way, start, _ = made(operation, arguments(count))
            ways.append(way)
            fact["counts"].append(start[4])
        fact["ways of counts"] = ways

        reread_environment()
        names.clear()
        knobs.runtime.launch_enter_hook.add(enter)
        knobs.runtime.launch_exit_hook.add(leave)
        ways = []
        for _ in range(2):
            hooks.clear()
            ways.append(made(operation, arguments(24))[0])
            fact["hooked"].append(hooks.copy())
        knobs.runtime.launch_enter_hook.remove(enter)
        knobs.runtime.launch_exit_hook.remove(leave)
        fact["ways of hooked"], fact["names"] = ways, names.copy()

        reread_environment()
        CompiledKernel.run = property(noted)
        for _ in range(2):
            watched.clear()
            made(operation, arguments(24))
            fact["watched"].append(len(watched))
        CompiledKernel.run = plain
        facts[name] = fact | {"compiled": len(compiled)}
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
