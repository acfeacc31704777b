"""The speed of the suite: what is counted, and what the parts are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import judging
from conformance.calls import call, materialize
from conformance.properties import measure


def test_every_part_is_a_function_of_the_suite() -> None:
    """A function that was renamed would count as no time at all."""
    modules = {
        "calls/materialize.py": materialize,
        "calls/call.py": call,
        "properties/measure.py": measure,
    }
    for places in judging.PARTS.values():
        for module, name in places:
            assert callable(getattr(modules[module], name)), (module, name)
            assert str(modules[module].__file__).endswith(module)


def test_an_item_is_judged_and_its_time_divided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table and the file have the same rows; parts take time, and not more than there is."""
    out = tmp_path / "judging.json"
    chosen = ["native", "--device", "cpu", "--op", "rms_norm", "--op", "mrope", "--property", "graph"]
    chosen += ["--property", "values", "--property", "chain"]
    judging.main([*chosen, "--cases", "2", "--out", str(out)])
    printed = capsys.readouterr().out
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    row = next(row for row in rows if row["property"] == "values")

    assert ("rms_norm", 6) == (row["operation"], row["cases"])
    assert {("rms_norm", "values"), ("mrope", "values")} <= {(row["operation"], row["property"]) for row in rows}
    assert "graph" not in {row["property"] for row in rows}
    assert ("mrope", "chain") not in {(row["operation"], row["property"]) for row in rows}
    assert row["elements"] > 0
    assert 0 < row["again"] <= 10 * row["first"]
    assert all(0 < share < 1 for share in row["shares"].values())
    assert sum(row["shares"].values()) < 1
    # what cannot be judged here has no row; the total has one
    assert 2 + len(rows) + 1 == len(printed.splitlines())


def test_the_total_weighs_by_time() -> None:
    """A share of half of three seconds and none of one is three eighths."""
    parts = dict.fromkeys(judging.PARTS, 0.5), dict.fromkeys(judging.PARTS, 0.0)
    rows = [
        judging.Speed("a", "values", 3, 30, 4.0, 3.0, parts[0]),
        judging.Speed("b", "values", 1, 10, 2.0, 1.0, parts[1]),
    ]
    total = judging._total(rows)

    assert (4, 40, 6.0, 4.0) == (total.cases, total.elements, total.first, total.again)
    assert {0.375} == set(total.shares.values())
