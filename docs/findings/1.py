"""mamba_ssm 2.3.2.post1: rows that lie 2**31 elements apart are read from wrong memory.

Needs torch, triton and mamba_ssm. Exits 1 while it shows, 0 once it does not. Without a GPU the kernel runs in
Triton's interpreter, where the wrong address ends the process that reads it.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    torch.cuda.device = lambda index: contextlib.nullcontext()
# the package's own __init__ imports extensions that these kernels do not need
sys.modules["mamba_ssm"] = importlib.util.module_from_spec(importlib.util.find_spec("mamba_ssm"))


def first_fit(kernel, configs):
    """Return the kernel with the first configuration: without a GPU nothing can be tuned."""
    from triton.runtime.autotuner import Heuristics

    return Heuristics(kernel, kernel.arg_names, {n: lambda _, v=v: v for n, v in configs[0].kwargs.items()})


def norm(name):
    """Return one of the three functions."""
    import triton

    if DEVICE == "cpu":
        triton.autotune = lambda configs, key: lambda kernel: first_fit(kernel, configs)
    if name == "k_activations":
        from mamba_ssm.ops.triton.k_activations import swiglu

        return lambda x, weight: swiglu(x)
    if name == "layernorm_gated":
        from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn

        return lambda x, weight: rmsnorm_fn(x, weight, None, eps=1e-6)
    from mamba_ssm.ops.triton.layer_norm import rms_norm_fn

    return lambda x, weight: rms_norm_fn(x, weight, None, eps=1e-6)


def judge(name):
    """Call with four rows of 128 columns, of which the last begins past element 2**31."""
    stride = 2**31 // 3 + 1
    x = torch.empty(3 * stride + 128, dtype=torch.bfloat16, device=DEVICE).as_strided((4, 128), (stride, 1))
    x.copy_(torch.arange(512, dtype=torch.bfloat16).view(4, 128))
    weight = torch.ones(128, dtype=torch.bfloat16, device=DEVICE)
    got, right = norm(name)(x, weight), norm(name)(x.contiguous(), weight)
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    wrong = int((got != right).sum())
    print(f"{name}: {wrong} of {right.numel()} elements differ from those of a contiguous copy")
    return wrong != 0


if len(sys.argv) > 1:
    sys.exit(judge(sys.argv[1]))
ended = {
    name: subprocess.run([sys.executable, __file__, name], check=False).returncode
    for name in ("layernorm_gated", "layer_norm", "k_activations")
}
print("exit status by function, negative for a signal:", ended)
sys.exit(any(ended.values()))
