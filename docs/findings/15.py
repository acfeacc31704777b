"""quack-kernels 0.6.5: a norm of an odd number of 16-bit columns does not compile.

Needs torch, quack-kernels and an NVIDIA GPU. Exits 1 while it shows, 0 once it does not.
"""

import sys

import torch
from quack.rmsnorm import rmsnorm_fwd

failed = 0
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for columns in (12, 13):
        x = torch.randn(2, columns, device="cuda", dtype=dtype)
        try:
            y, _, _ = rmsnorm_fwd(x, eps=1e-6)
        except Exception as error:  # the compiler's, of which CuTe has several
            failed += 1
            said = next((line for line in str(error).splitlines() if "cp_size" in line), str(error))
            print(f"{dtype}, {columns} columns: {type(error).__name__}: {said.strip()}")
        else:
            wide = x.float()
            wanted = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)
            torch.testing.assert_close(y.float(), wanted, rtol=1e-2, atol=1e-2)
            print(f"{dtype}, {columns} columns: right")
sys.exit(failed != 0)
