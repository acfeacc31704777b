"""liger-kernel 0.8.5, transformers 5.23.0: apply_liger_kernel_to_qwen2_vl raises, and its rotation is not used.

Needs torch, triton, transformers and liger-kernel; no GPU. Exits 1 while it shows, 0 once it does not.
"""

import inspect
import os
import sys

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from liger_kernel.transformers import apply_liger_kernel_to_qwen2_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl

failed = 0
try:
    apply_liger_kernel_to_qwen2_vl()
    print("the patch runs")
except ImportError as error:
    failed += 1
    print("ImportError:", str(error).partition(" (")[0])
for name in ("Qwen2VLCausalLMOutputWithPast", "apply_multimodal_rotary_pos_emb"):
    used = name in inspect.getsource(modeling_qwen2_vl)
    failed += not used
    print(f"modeling_qwen2_vl names {name}: {used}")
sys.exit(failed != 0)
