"""vllm 0.33.0: tensors of one column are refused because of a stride.

Needs torch, triton and vllm; without a GPU vllm's sources suffice. Exits 1 while it shows, 0 once it does not.
"""

import importlib
import importlib.util
import os
import sys
import traceback

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    # vllm does without Triton unless no GPU is visible
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# the packages' own __init__ import what the engine needs
for name in ("vllm", "vllm.model_executor", "vllm.model_executor.layers", "vllm.model_executor.layers.mamba"):
    sys.modules[name] = importlib.util.module_from_spec(importlib.util.find_spec(name))
norm = importlib.import_module("vllm.model_executor.layers.mamba.ops.layernorm_gated").rms_norm_gated

calls = {
    "a weight of one column": (torch.ones(4, 1, device=DEVICE), torch.ones(2, device=DEVICE)[::2]),
    "x of one column": (torch.ones(1, 4, device=DEVICE).t(), torch.ones(1, device=DEVICE)),
}
failed = 0
for what, (x, weight) in calls.items():
    try:
        norm(x, weight, None)
        print(what, "runs")
    except AssertionError as error:
        failed += 1
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(f"{what}: AssertionError in {place.name}, line {place.lineno}: {place.line}")
sys.exit(failed != 0)
