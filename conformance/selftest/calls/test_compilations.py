"""Kernels that Triton compiles are counted, and stand in the report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conformance.calls.compilations import NOTHING, Compiled, Listener
from conformance.selftest.processes import ran

KERNEL = """\
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from conformance.calls.compilations import listen


@triton.jit
def kernel(x_ptr):
    tl.store(x_ptr, 1.0)


listener = listen()
for _ in range(2):
    triton.compile(ASTSource(kernel, {"x_ptr": "*fp32"}, {}), target=GPUTarget("cuda", 90, 32))
    seen = listener.taken()
    print(seen.kernels, seen.cached, 0.0 < seen.seconds < 60.0)
"""


def test_a_kernel_is_compiled_once_and_then_cached(tmp_path: Path) -> None:
    """Triton says which it was, and how long compilation took; no GPU is needed for that."""
    pytest.importorskip("triton")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "kernel.py").write_text(KERNEL, encoding="utf-8")

    done = ran(folder, "kernel.py", TRITON_CACHE_DIR=str(tmp_path / "cache"))

    assert ["1 0 True", "0 1 False"] == done.stdout.splitlines(), done.stderr


def test_an_earlier_listener_still_hears_of_everything() -> None:
    """A program may listen as well: its listener is called with all that Triton said."""
    heard: list[dict[str, Any]] = []
    listener = Listener(lambda **said: heard.append(said))
    times = SimpleNamespace(total=2_500_000)

    listener(src="a kernel", times=times, cache_hit=False)
    listener(src="a kernel", times=times, cache_hit=True)

    assert [("a kernel", False), ("a kernel", True)] == [(said["src"], said["cache_hit"]) for said in heard]
    assert Compiled(1, 2.5, 1) == listener.taken()
    assert NOTHING == listener.taken()
