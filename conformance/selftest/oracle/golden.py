"""Golden values of a file of ``fixtures/golden``, as cases of a test and as tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

GOLDEN = Path(__file__).resolve().parents[3] / "fixtures" / "golden"
CODES = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


def golden_cases(name: str) -> list[Any]:
    """Return the cases of a file, each named as it is there."""
    cases: list[dict[str, Any]] = json.loads((GOLDEN / name).read_text(encoding="utf-8"))["cases"]
    assert cases
    return [pytest.param(case, id=f"{name.removesuffix('.json')}-{case['id']}") for case in cases]


def numbers(rows: list[list[str]], dtype: str) -> torch.Tensor:
    """Return numbers that are written as hexadecimal floats."""
    values = [[float.fromhex(value) for value in row] for row in rows]
    return torch.tensor(values, dtype=torch.float64).to(getattr(torch, dtype))


def from_bits(rows: list[str], dtype: torch.dtype) -> torch.Tensor:
    """Return numbers that are written as bit patterns, a string a row."""
    size = 8 * dtype.itemsize
    codes = [[int(code, 16) for code in row.split()] for row in rows]
    signed = [[code - (1 << size) if code >> (size - 1) else code for code in row] for row in codes]
    return torch.tensor(signed, dtype=CODES[dtype]).view(dtype)
