"""liger-kernel 0.8.5: rotations overwrite the caller's q and k, and autograd does not know.

Needs torch, triton and liger-kernel. Exits 1 while it shows, 0 once it does not. Without a GPU the kernels run in
Triton's interpreter.
"""

import os
import sys

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

from liger_kernel.ops.qwen2vl_mrope import LigerQwen2VLMRopeFunction
from liger_kernel.ops.rope import LigerRopeFunction

TOKENS, HEADS, DIM = 3, 2, 8


def plain(q, k, cos, sin):
    """Rotate as transformers does."""

    def turned(x):
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    return turned(q), turned(k)


def gradient(rotate):
    """Return the gradient of leaf tensors through exp, whose backward needs its own result, and a rotation."""
    torch.manual_seed(0)
    leaf = torch.randn(1, TOKENS, HEADS, DIM, device=DEVICE, requires_grad=True)
    # as models have them: heads are the second dimension of a view
    q, k = (torch.exp(leaf + shift).transpose(1, 2) for shift in (0.0, 1.0))
    before = q.detach().clone()
    turned = rotate(q, k)
    kept = torch.equal(before, q.detach())
    sum(y.square().sum() for y in turned).backward()
    return leaf.grad, kept


angle = torch.arange(TOKENS, dtype=torch.float32)[:, None] * torch.arange(1, DIM // 2 + 1) / 10
cos, sin = (table.repeat(1, 2)[None].to(DEVICE) for table in (angle.cos(), angle.sin()))
right, _ = gradient(lambda q, k: plain(q, k, cos[:, None], sin[:, None]))
three = tuple(table.expand(3, 1, TOKENS, DIM).contiguous() for table in (cos, sin))
rotations = {
    "LigerRopeFunction": lambda q, k: LigerRopeFunction.apply(q, k, cos, sin),
    "LigerQwen2VLMRopeFunction": lambda q, k: LigerQwen2VLMRopeFunction.apply(q, k, *three, [2, 1, 1]),
}
failed = 0
for name, rotate in rotations.items():
    found, kept = gradient(rotate)
    off = float(((found - right).abs() / right.abs()).max())
    failed += off > 1e-3
    print(f"{name}: q is as it was: {kept}; the gradient is off by a factor of up to {1 + off:.3g}, no error")
sys.exit(failed != 0)
