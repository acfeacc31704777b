"""The host cost of launches is not measured on a machine that launches nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks import host_cost


def test_without_a_gpu_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program reports the missing GPU before it calls anything."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(host_cost, "calls", lambda _device: pytest.fail("called"))

    with pytest.raises(SystemExit, match="found no GPU, must have one"):
        host_cost.main()
