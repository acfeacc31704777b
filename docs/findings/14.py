"""torch 2.13.0: F.gelu on a CPU gives NaN for infinity, and infinity for numbers above half the largest.

Needs torch alone; no GPU. Exits 1 while it shows, 0 once it does not.
"""

import math
import sys

import torch
from torch.nn import functional

wrong = 0
for dtype in (torch.float32, torch.bfloat16):
    for number in (math.inf, 3e38):
        x = torch.full((64,), number, dtype=dtype)
        # a column of a matrix, whose elements lie two apart, is not given to oneDNN
        apart = torch.full((64, 2), number, dtype=dtype)[:, 0]
        got, right = functional.gelu(x)[0].item(), functional.gelu(apart)[0].item()
        print(dtype, number, "contiguous:", got, "with a stride:", right)
        wrong += got != right
sys.exit(wrong != 0)
