"""torchnorm 0.1.2: a weight or bias with a stride is read as if it had none.

Needs torch, triton and torchnorm. Exits 1 while it shows, 0 once it does not. Without a GPU the kernels run in
Triton's interpreter.
"""

import os
import sys

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

from torchnorm._triton import fused_layer_norm, fused_rms_norm

x = torch.tensor([[1.0, 2.0, 4.0]], device=DEVICE)
# the first of two columns of parameters
weight = torch.tensor([[1.0, 100.0], [2.0, 100.0], [3.0, 100.0]], device=DEVICE)[:, 0]
failed = 0
for name, call in (
    ("fused_rms_norm", lambda weight: fused_rms_norm(x, weight, 1e-6)),
    ("fused_layer_norm", lambda weight: fused_layer_norm(x, weight, None, 1e-6)),
):
    got, right = call(weight), call(weight.contiguous())
    failed += not torch.equal(got, right)
    print(f"{name}: {got.tolist()}, of a contiguous copy of the weight {right.tolist()}")
sys.exit(failed != 0)
