"""torchnorm 0.1.2: the gradient through the second output of fused_add_rms_norm is dropped.

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


def plain(x, residual, weight, eps):
    """Return the norm of the sum, and the sum."""
    total = x + residual
    return torch.nn.functional.rms_norm(total, x.shape[-1:], weight, eps), total


def gradient(norm):
    """Return the gradient of x where a model goes on with the norm and with the sum."""
    x = torch.tensor([[1.0, 2.0]], device=DEVICE, requires_grad=True)
    weight = torch.ones(2, device=DEVICE)
    y, total = norm(x, torch.zeros_like(x), weight, 1e-6)
    (y.sum() + 10 * total.sum()).backward()
    return x.grad


got, right = gradient(fused_add_rms_norm), gradient(plain)
print("gradient of x:", got.tolist(), "must be", right.tolist())
sys.exit(not torch.allclose(got, right, atol=1e-4))
