"""liger-kernel 0.8.5: the backward of a rotation writes over the gradients that it is given.

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
angle = torch.arange(TOKENS, dtype=torch.float32)[:, None] * torch.arange(1, DIM // 2 + 1) / 10
cos, sin = (table.repeat(1, 2)[None].to(DEVICE) for table in (angle.cos(), angle.sin()))
three = tuple(table.expand(3, 1, TOKENS, DIM).contiguous() for table in (cos, sin))
rotations = {
    "LigerRopeFunction": lambda q, k: LigerRopeFunction.apply(q, k, cos, sin),
    "LigerQwen2VLMRopeFunction": lambda q, k: LigerQwen2VLMRopeFunction.apply(q, k, *three, [2, 1, 1]),
}
failed = 0
for name, rotate in rotations.items():
    torch.manual_seed(0)
    # as models have them: heads are the second dimension of a view
    leaf = torch.randn(1, TOKENS, HEADS, DIM, device=DEVICE, requires_grad=True)
    turned, _ = rotate(leaf.transpose(1, 2), leaf.transpose(1, 2).clone())
    given = torch.randn(1, TOKENS, HEADS, DIM, device=DEVICE).transpose(1, 2)
    before = given.clone()
    torch.autograd.grad(turned, leaf, given)
    kept = torch.equal(before, given)
    failed += not kept
    print(f"{name}: the gradient that was given is as it was: {kept}")
sys.exit(failed != 0)
