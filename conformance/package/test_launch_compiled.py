"""The driver gets the same from a direct launch as Triton's launcher would pass, for a GPU that is not there.

Kernels are bound, specialised and compiled as they are for that GPU; only the driver, which would load and start
them, is another. A process that interprets cannot compile, so this file is also a script: it writes one line of
JSON.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conformance.package.driver import LAUNCH

OPERATIONS = ("rms_norm", "rms_norm_gated", "rms_norm_gated 128", "mrope", "mrope_", "rms_norm_fp8", "gated_fp8")
STREAM, FUNCTION = 7, 11


@functools.cache
def launched() -> dict[str, dict[str, Any]]:
    """Launch each operation in a process of its own and return what came out."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    facts: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return facts


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_direct_launch_is_what_triton_does(name: str) -> None:
    """The second of two calls asks nothing of Triton, and starts the same function with the same arguments."""
    facts = launched()[name]

    assert ["triton", "direct"] == facts["ways"]
    assert facts["starts"][0] == facts["starts"][1]


def told(values: Sequence[int | float], results: tuple[torch.Tensor, ...]) -> list[str]:
    """What JSON can hold of a kernel's parameters; results by number: each call has its own."""
    places = {result.data_ptr(): f"result {number}" for number, result in enumerate(results)}
    return [str(places.get(each, each)) if type(each) is int else str(each) for each in values]


def calls() -> dict[str, tuple[str, dict[str, Any]]]:
    """One call of each kernel: an operation and its arguments."""
    low, fp8_dtype = torch.bfloat16, torch.float8_e4m3fn
    rows = {"x": torch.ones(24, 512, dtype=low), "weight": torch.ones(512, dtype=low), "eps": 1e-6}
    narrow = {"x": torch.ones(24, 128, dtype=low), "weight": torch.ones(128, dtype=low), "eps": 1e-6}
    residual, gate = {"residual": torch.ones(24, 512, dtype=low)}, {"gate": torch.ones(24, 512, dtype=low)}
    qkv = torch.ones(24, 8 * 64, dtype=low)
    cache = torch.ones(64, 32)
    rotation = {
        "q": qkv[:, :384].view(24, 6, 64),
        "k": qkv[:, 384:].view(24, 2, 64),
        "positions": torch.zeros(3, 24, dtype=torch.int64),
        "cos": cache[:, :16],
        "sin": cache[:, 16:],
        "sections": (8, 4, 4),
    }
    return {
        "rms_norm": ("rms_norm", rows | residual),
        "rms_norm_gated": ("rms_norm_gated", rows | gate | {"group_size": 64}),
        "rms_norm_gated 128": ("rms_norm_gated", narrow | {"gate": torch.ones(24, 128, dtype=low)}),
        "mrope": ("mrope", rotation),
        "mrope_": ("mrope_", rotation),
        "rms_norm_fp8": ("rms_norm_fp8", rows | residual | {"fp8_dtype": fp8_dtype, "scale_layout": "column"}),
        "gated_fp8": ("rms_norm_gated_fp8", rows | gate | {"fp8_dtype": fp8_dtype, "also_unquantised": True}),
    }


def main() -> None:
    """Launch every operation twice and write down what the launcher was given."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver, jit

    import normkernels
    from normkernels import call, direct, launch, plans

    given: list[tuple[tuple[int, ...], int, int, list[Any]]] = []
    by_triton: list[str] = []
    kinds: list[str] = []

    class Launcher:
        """Stands in for the driver's: takes what it takes."""

        def __init__(self, source: Any, _metadata: object) -> None:
            """There is nothing to build."""
            self.signature = source.signature

        def __call__(self, *args: Any) -> None:
            """Note a start: what a kernel's parameters would be, which are none of its constants."""
            assert (STREAM, FUNCTION) == args[3:5]
            assert [None] * 2 == [None if hook is None or not hook.calls else hook for hook in args[7:9]]
            (num_warps, _num_ctas, shared), passed = args[5][:3], args[9:]
            pairs = [
                (kind, each)
                for kind, each in zip(self.signature.values(), passed, strict=True)
                if kind != "constexpr"
            ]
            kinds[:] = [kind for kind, _ in pairs]
            values = [
                each.data_ptr() if kind.startswith("*") else direct._C_TYPES[kind](each).value
                for kind, each in pairs
            ]
            given.append((args[:3], num_warps * 32, shared, values))

    def entry(function: int, *args: Any) -> int:
        """Note a direct start, in the driver's place: its parameters, of the types that Triton has noted."""
        grid, block, (shared, stream, parameters, extra) = args[:3], args[3:6], args[6:]
        assert (STREAM, FUNCTION, None) == (stream, function, extra)
        assert (1, 1) == block[1:]
        types = [ctypes.c_uint64 if kind.startswith("*") else direct._C_TYPES[kind] for kind in kinds]
        values = [kind.from_address(parameters[at]).value for at, kind in enumerate(types)]
        given.append((grid, block[0], shared, values))
        return 0

    def run(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        """Note a launch through Triton."""
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
            get_current_stream=lambda _device: STREAM,
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
        )
    )
    machine = call.Device("cuda", has_triton=True, interpreting=False, table=plans.TABLE)
    call.Device.of = classmethod(lambda _cls, _tensor: machine)  # type: ignore[assignment, method-assign]  # not this one
    launch.standing = lambda: None  # type: ignore[assignment]  # torch here may have no CUDA
    launch.current_device = lambda: None
    launch._current_stream = lambda _index: STREAM
    function = LAUNCH(entry)
    direct.is_plain = lambda compiled: compiled is not None
    direct.launch_function = lambda: ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[assignment]  # its cache is not needed

    facts = {}
    for name, (operation, arguments) in calls().items():
        starts, ways = [], []
        for _ in range(2):
            given.clear()
            by_triton.clear()
            results = getattr(normkernels, operation)(**arguments)
            (start,) = given
            ways.append("triton" if by_triton else "direct")
            found = results if isinstance(results, tuple) else (results,)
            starts.append([*start[:3], told(start[3], found)])
        facts[name] = {"starts": starts, "ways": ways}
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
