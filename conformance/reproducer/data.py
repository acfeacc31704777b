"""Tensors as Python expressions: numbers where they are few, packed bytes, and a file where those are many."""

from __future__ import annotations

import base64
import textwrap
import zlib
from pathlib import Path

import torch

READABLE = 64  # elements that are written out as numbers
BESIDE = 2**20  # characters of packed bytes above which they go into a file beside the script
WIDTH = 100


class Data:
    """The values of one script. ``beside`` is the file for what is too much to be text.

    ``names`` are the names of ``math`` that the expressions use.
    """

    def __init__(self, beside: Path) -> None:
        self._beside = beside
        self._saved: dict[str, torch.Tensor] = {}
        self.names: set[str] = set()

    def expression(self, name: str, values: torch.Tensor) -> str:
        """Values, dtype and shape; ``name`` is unique within the script."""
        dtype, shape = values.dtype, tuple(values.shape)
        if values.numel() <= READABLE:
            numbers = [repr(number) for number in values.flatten().tolist()]
            self.names |= {number.lstrip("-") for number in numbers} & {"inf", "nan"}
            lines = textwrap.wrap(", ".join(numbers), WIDTH)
            return f"torch.tensor([{block(lines)}], dtype={dtype}).reshape({shape})"
        raw = values.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        text = base64.b64encode(zlib.compress(raw, 9)).decode()
        if len(text) > BESIDE:
            self._saved[name] = values.contiguous()
            return f"SAVED[{name!r}]"
        quoted = [f'"{line}"' for line in textwrap.wrap(text, WIDTH)]
        return f"unpacked({block(quoted)}, {dtype}, {shape})"

    def save(self) -> bool:
        """Write the file beside the script, where there is something for it."""
        if self._saved:
            torch.save(self._saved, self._beside)
        return bool(self._saved)


def block(lines: list[str]) -> str:
    """Lines inside brackets: indented below each other where there are several."""
    if len(lines) <= 1:
        return "".join(lines)
    return "\n" + "".join(f"            {line}\n" for line in lines) + "        "
