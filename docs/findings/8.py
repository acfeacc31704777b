"""unsloth 2026.10.9: swiglu_fg_kernel and both of GEGLU read memory around arguments that are not contiguous.

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

from unsloth.kernels import geglu, swiglu

if DEVICE == "cpu":
    swiglu.torch_gpu_device = geglu.torch_gpu_device = lambda device: contextlib.nullcontext()

torch.manual_seed(0)
# both halves of one projection, as models that fuse them have them
gate, up = torch.randn(1, 4, 2 * 64, device=DEVICE).chunk(2, -1)
kernels = {
    "swiglu_fg_kernel": (swiglu.swiglu_fg_kernel, torch.nn.functional.silu(gate) * up),
    "geglu_exact_forward_kernel": (geglu.geglu_exact_forward_kernel, torch.nn.functional.gelu(gate) * up),
}
failed = 0
for name, (kernel, right) in kernels.items():
    views, copies = kernel(gate, up), kernel(gate.contiguous(), up.contiguous())
    wrong = [int((found - right).abs().gt(1e-5).sum()) for found in (views, copies)]
    failed += wrong[0]
    print(f"{name}: {wrong[0]} of {right.numel()} elements are wrong of views, {wrong[1]} of contiguous copies")
sys.exit(failed != 0)
