"""xformers 0.0.35: rms_norm_add is not the sum, then rms_norm of the sum, which its docstring promises.

Needs torch, triton and xformers. Exits 1 while it shows, 0 once it does not. Without a GPU the kernels run in
Triton's interpreter.
"""

import contextlib
import os
import sys

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    # without it the package looks for a GPU
    os.environ["XFORMERS_ENABLE_TRITON"] = "1"
    torch.cuda.device = lambda index: contextlib.nullcontext()

import triton
import triton.language as tl
import xformers.triton.importing


@triton.jit
def rsqrt(x):
    """Stand in for libdevice's function, which is None in the interpreter of Triton 3.9."""
    return 1 / tl.sqrt(x)


if DEVICE == "cpu":
    xformers.triton.importing.libdevice_find = lambda name: rsqrt

from xformers.ops.rmsnorm import rms_norm, rms_norm_add

torch.manual_seed(0)
x, y = (torch.randn(64, 1024, dtype=torch.bfloat16).to(DEVICE) for _ in range(2))
weight = torch.ones(1024, dtype=torch.bfloat16, device=DEVICE)
got = rms_norm_add(x, y, weight)
# x is the sum by now, as its caller sees it
wrong = int((got != rms_norm(x, weight)).sum())
print(f"{wrong} of {got.numel()} elements differ from the norm of the sum")

# the smallest: the sum 1.00390625 rounds to 1 in bfloat16, of which the norm is 1
small = torch.tensor([[1.0]], dtype=torch.bfloat16, device=DEVICE)
rest = torch.tensor([[2.0**-8]], dtype=torch.bfloat16, device=DEVICE)
print("rms_norm_add([1], [2**-8]):", rms_norm_add(small, rest, None, 0.0).item(), "and the sum", small.item())
print("rms_norm(the sum):", rms_norm(small, None, 0.0).item())
sys.exit(wrong != 0)
