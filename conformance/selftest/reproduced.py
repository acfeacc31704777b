"""What tests of reproducers share: a failure as a property finds it, and the script of one run."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from conformance import state_guard
from conformance.calling import Subject
from conformance.case import Case
from conformance.item import Failure, Item
from conformance.judging import judge
from conformance.properties import PASSIVE
from conformance.verdict import BAD


def failure_of(subject: Subject, name: str, case: Case) -> Failure:
    """What the property itself says of a case; passive ones are judged of every call."""
    prop = "values" if name in PASSIVE else name
    (bad,) = [v for v in judge(subject, prop, case) if v.status in BAD and v.property == name]
    return Failure(Item(case.operation, name, case.dtype), bad, case, "")


def run_script(script: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of a script that is run in this process, which saves importing torch."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    # an implementation's mistakes stay its own
    with state_guard.guarded(), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    return int(ended.value.code or 0)
