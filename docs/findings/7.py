"""liger-kernel 0.8.5: softmax of more than 65,536 columns raises; the kernels written for it are never reached.

Needs torch, triton and liger-kernel. Exits 1 while it shows, 0 once it does not. Without a GPU the kernels run in
Triton's interpreter.
"""

import os
import sys

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

from liger_kernel.ops.softmax import LigerSoftmaxFunction

failed = 0
for columns in (65536, 65537):
    x = torch.zeros(1, columns, device=DEVICE)
    try:
        y = LigerSoftmaxFunction.apply(x)
        print(columns, "columns: largest error", float((y - torch.softmax(x, -1)).abs().max()))
    except RuntimeError as error:
        failed += 1
        print(columns, "columns:", error)
sys.exit(failed != 0)
