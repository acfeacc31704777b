"""torch 2.13.0: a compiled function raises once a tensor that is a view was given data of another dtype.

Needs torch alone; no GPU. Exits 1 while it shows, 0 once it does not.
"""

import logging
import sys

import torch

# the error is printed below
logging.disable(logging.ERROR)


def scaled(x, weight):
    """Multiply in float32."""
    return x.float() * weight.float()


x = torch.ones(5)
failed = 0
for first, second in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
    torch.compiler.reset()
    compiled = torch.compile(scaled, backend="eager")
    # a slice of a larger tensor, as weights that share one allocation are
    weight = torch.ones(7, dtype=first)[1:6]
    compiled(x, weight)
    weight.data = torch.ones(7, dtype=second)[1:6]
    print("without compilation:", scaled(x, weight).tolist())
    try:
        print("compiled:", compiled(x, weight).tolist())
    except Exception as error:
        failed += 1
        print(f"compiled, {first} then {second}: {type(error).__name__}: {str(error).splitlines()[0]}")
sys.exit(failed != 0)
