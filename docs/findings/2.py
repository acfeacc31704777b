"""mamba_ssm 2.3.2.post1: tensors of one column, and of no rows, are refused because of a stride.

Needs torch, triton and mamba_ssm. Exits 1 while it shows, 0 once it does not. Without a GPU the kernels run in
Triton's interpreter.
"""

import contextlib
import importlib.util
import os
import sys
import traceback

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    torch.cuda.device = lambda index: contextlib.nullcontext()
# the package's own __init__ imports extensions that these kernels do not need
sys.modules["mamba_ssm"] = importlib.util.module_from_spec(importlib.util.find_spec("mamba_ssm"))

import triton
from triton.runtime.autotuner import Heuristics

if DEVICE == "cpu":
    # without a GPU nothing can be tuned
    triton.autotune = lambda configs, key: lambda kernel: Heuristics(kernel, kernel.arg_names, {})
from mamba_ssm.ops.triton.layer_norm import layer_norm_fn
from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn

one = torch.ones(1, device=DEVICE)
strided = torch.ones(2, device=DEVICE)[::2]  # one element, stride 2
column = torch.ones(1, 4, device=DEVICE).t()  # one column, strides (1, 4)
none = torch.ones(0, 4, device=DEVICE)[:, ::2]  # no rows, strides (4, 2)
calls = {
    "layer_norm_fn(x of no rows)": lambda: layer_norm_fn(none, torch.ones(2, device=DEVICE), None),
    "layer_norm_fn(x of one column)": lambda: layer_norm_fn(column, one, None),
    "rmsnorm_fn(weight of one column)": lambda: rmsnorm_fn(torch.ones(4, 1, device=DEVICE), strided, None),
}
failed = 0
for what, call in calls.items():
    try:
        call()
        print(what, "runs")
    except AssertionError as error:
        failed += 1
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(f"{what}: AssertionError in {place.name}, line {place.lineno}: {place.line}")
sys.exit(failed != 0)
