"""unsloth 2026.10.9: swiglu_fg_kernel reads memory around its arguments where they are not contiguous.

Needs torch, triton, unsloth and unsloth_zoo. Exits 1 while it shows, 0 once it does not. Without a GPU the kernel
runs in Triton's interpreter.
"""

import contextlib
import importlib.util
import os
import sys

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
os.environ.setdefault("UNSLOTH_ALLOW_CPU", "1")
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    # importing the package without a GPU raises; the kernel's own module does not
    for name in ("unsloth", "unsloth.kernels", "unsloth_zoo"):
        sys.modules[name] = importlib.util.module_from_spec(importlib.util.find_spec(name))

from unsloth.kernels import swiglu

if DEVICE == "cpu":
    swiglu.torch_gpu_device = lambda device: contextlib.nullcontext()

torch.manual_seed(0)
# both halves of one projection, as models that fuse them have them
gate, up = torch.randn(1, 4, 2 * 64, device=DEVICE).chunk(2, -1)
right = torch.nn.functional.silu(gate) * up
strided = swiglu.swiglu_fg_kernel(gate, up)
copied = swiglu.swiglu_fg_kernel(gate.contiguous(), up.contiguous())
print("elements that are wrong of contiguous halves:", int((copied - right).abs().gt(1e-5).sum()))
print("elements that are wrong of views:", int((strided - right).abs().gt(1e-5).sum()), "of", right.numel())
sys.exit(not torch.allclose(strided, right, atol=1e-5))
