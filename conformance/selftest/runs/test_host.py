"""The process of an adapter is prepared before the adapter is imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.runs.host import Host

THREADS = "TORCHINDUCTOR_COMPILE_THREADS"
ADAPTER = f"""
import os
from conformance import Adapter

class Named(Adapter):
    name = os.environ.get({THREADS!r}, "unset")
    contracts = {{"softmax": "fp32"}}

    def softmax(self, x, **others):
        return x
"""


@pytest.mark.parametrize(("asked", "seen"), [(None, "1"), ("4", "4")])
def test_inductor_has_one_process_unless_asked_for_more(
    asked: str | None, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the workers would start a process a core, none of which has its share of the cores."""
    monkeypatch.delenv(THREADS, raising=False)
    if asked is not None:
        monkeypatch.setenv(THREADS, asked)
    file = tmp_path / "named.py"
    file.write_text(ADAPTER, encoding="utf-8")

    host = Host(f"{file}:Named", "cpu", 60.0)
    host.close()
    assert seen == host.greeting.declared.name
