"""torchnorm 0.1.2: the sum that fused_add_rms_norm returns went through bfloat16, whatever its dtype is.

Needs torch, triton and torchnorm. Exits 1 while it shows, 0 once it does not. Without a GPU the kernel runs in
Triton's interpreter.
"""

import os
import sys

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

from torchnorm._triton import fused_add_rms_norm

x, residual = torch.tensor([[-1.23046875]]), torch.tensor([[-0.351318359375]])
failed = 0
for dtype in (torch.float32, torch.float16):
    given = (tensor.to(dtype).to(DEVICE) for tensor in (x, residual))
    _, total = fused_add_rms_norm(*given, torch.ones(1, dtype=dtype, device=DEVICE), 1e-6)
    expected = x.to(dtype) + residual.to(dtype)
    failed += total.item() != expected.item()
    print(f"{dtype}: {x.item()} + {residual.item()} gives {total.item()}, must be {expected.item()}")
sys.exit(failed != 0)
