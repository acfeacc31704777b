"""vllm 0.33.0: rows that lie 2**31 elements apart are read from wrong memory by two kernels of Qwen3.5.

Needs torch, triton and vllm; without a GPU vllm's sources suffice. Exits 1 while it shows, 0 once it does not.
Without a GPU the kernels run in Triton's interpreter, where the wrong address ends the process that reads it.
"""

import importlib
import importlib.util
import os
import subprocess
import sys

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    # vllm does without Triton unless no GPU is visible
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def kernel_of(module):
    """Import a module without what its packages import for the engine."""
    parts = module.split(".")[:-1]
    for name in (".".join(parts[: end + 1]) for end in range(len(parts))):
        if name not in sys.modules:
            sys.modules[name] = importlib.util.module_from_spec(importlib.util.find_spec(name))
    return importlib.import_module(module)


def gated_norm(rows):
    """Call the norm of the GDN layers, on rows as they are."""
    guard = kernel_of("vllm.third_party.flash_linear_attention.ops.layernorm_guard")
    if DEVICE == "cpu":
        # vllm asks the GPU
        guard.num_compute_units = lambda index: 1
    return guard.layer_norm_fwd(rows, torch.ones_like(rows[0]), None, 1e-6, is_rms_norm=True)[0]


def norm_and_rotation(rows):
    """Call the norm and rotation of heads, rows being the keys of one head of 128 numbers each."""
    function = kernel_of("vllm.model_executor.layers.fused_qk_norm_rope").fused_qk_rmsnorm_rope_gate
    count, weight = len(rows), torch.ones_like(rows[0])
    angles, positions = rows.new_ones(8, 128), torch.arange(count, device=DEVICE)
    return function(rows.new_ones(count, 256), rows, weight, weight, angles, positions, 1e-6, 1, 1, 128, 128)[1]


def judge(name):
    """Call with four rows of 128 columns, of which the last begins past element 2**31."""
    stride = 2**31 // 3 + 1
    x = torch.empty(3 * stride + 128, dtype=torch.bfloat16, device=DEVICE).as_strided((4, 128), (stride, 1))
    x.copy_(torch.arange(512, dtype=torch.bfloat16).view(4, 128))
    got, right = CALLS[name](x), CALLS[name](x.contiguous())
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    wrong = int((got != right).sum())
    print(f"{name}: {wrong} of {right.numel()} elements differ from those of a contiguous copy")
    return wrong != 0


CALLS = {"layer_norm_fwd": gated_norm, "fused_qk_rmsnorm_rope_gate": norm_and_rotation}
if len(sys.argv) > 1:
    sys.exit(judge(sys.argv[1]))
ended = {name: subprocess.run([sys.executable, __file__, name], check=False).returncode for name in CALLS}
print("exit status by function, negative for a signal:", ended)
sys.exit(any(ended.values()))
