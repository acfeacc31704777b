"""fla-core 0.6.0: tensors of one column are refused because of a stride that means nothing.

Needs torch, triton, einops and fla-core. Exits 1 while it shows, 0 once it does not. No kernel is launched
before it shows, but importing fla asks for a GPU or, without one, for Triton's interpreter.
"""

import contextlib
import os
import sys
import traceback

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"
    torch.cuda.device = lambda index: contextlib.nullcontext()

from fla.modules.norm.l2norm import l2norm
from fla.modules.norm.layernorm_gated import rmsnorm_fn

calls = {
    # x.t() of one row is a column whose last stride is 4
    "l2norm(x of one column)": lambda: l2norm(torch.ones(1, 4, device=DEVICE).t()),
    "rmsnorm_fn(weight of one column)": lambda: rmsnorm_fn(
        torch.ones(4, 1, device=DEVICE), torch.ones(2, device=DEVICE)[::2], None
    ),
}
failed = 0
for what, call in calls.items():
    try:
        call()
        print(what, "runs")
    except AssertionError as error:
        failed += 1
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(f"{what}: AssertionError in {place.name}, line {place.lineno}: {place.line}")
sys.exit(failed != 0)
