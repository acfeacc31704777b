"""The soak compares what it says, passes over nothing that is wrong, and ends with 1 then."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.calls.materialize import values_of
from conformance.cases.case import Case, TensorSpec
from conformance.operations import OPERATIONS
from conformance.oracle.contract import round_once
from conformance.properties.measure import chunks, intervals
from conformance.selftest.fakes.norm_steps import NormOneLess
from conformance.selftest.soaks import __main__ as command
from conformance.selftest.soaks import misses
from conformance.selftest.soaks.__main__ import WRONG, Row, main, table
from conformance.selftest.soaks.misses import twice_off
from conformance.selftest.soaks.rights import Right, rights
from conformance.selftest.soaks.variations import VARIATIONS

FEW = "2e4"
SUMS = {"pairwise sums", "blocked sums", "serial sums"}
OF_SQUARES = {*SUMS, "blocked sums of fused squares", "rsqrt one ulp off"}
ONCE = {"float64 rounded once"}
# the forms in which the base of each operation's fakes is judged
FORMS = {
    **dict.fromkeys(OPERATIONS, OF_SQUARES | ONCE),
    **dict.fromkeys(("mrope", "silu_and_mul", "rope", "gelu_and_mul", "quantise_fp8"), ONCE),
    "softmax": SUMS | ONCE,
}


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(name="found", scope="module")
def _found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("soak") / "soak.jsonl"

    assert main(("--device", "cpu", "--elements", FEW, "--out", str(out))) == 0
    return _rows(out)


def test_every_operation_has_its_part(found: Sequence[dict[str, Any]]) -> None:
    """The rows of right implementations hold the elements that were asked for, without a failure."""
    header, *rows = found
    right = [row for row in rows if not row["wrong"]]
    elements = {name: sum(row["elements"] for row in right if row["operation"] == name) for name in OPERATIONS}

    assert {"torch", "commit", "device", "date", "elements", "seed"} <= set(header)
    assert min(elements.values()) >= float(FEW) / len(OPERATIONS)
    assert {0} == {row["failures"] for row in right}
    assert all(row["cases"] and row["first"] is None for row in right)


def test_every_right_implementation_has_a_row(found: Sequence[dict[str, Any]]) -> None:
    """Adapters, and the forms that the arithmetic of an operation can have."""
    for name in OPERATIONS:
        row_names = {row["implementation"] for row in found[1:] if row["operation"] == name and not row["wrong"]}
        every = rights(name, "cpu")
        whole = {each.name for each in every if each.variation is None}

        assert whole - {"torch"} <= row_names
        assert {f"{every[0].name}, {form}" for form in FORMS[name]} == row_names - whole


def test_one_wrong_element_fails(found: Sequence[dict[str, Any]]) -> None:
    """Every output of every operation is judged with one element off by twice its bound, in each dtype."""
    wrong = {row["operation"]: row for row in found[1:] if row["wrong"]}

    assert set(OPERATIONS) == set(wrong)
    assert all(row["failures"] == row["cases"] >= 3 and row["first"] for row in wrong.values())


def test_a_wrong_implementation_ends_with_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A norm that divides by n - 1 is a failure, with its case and why, in the file and in the table."""

    def with_a_wrong_one(operation: str, device: str) -> list[Right]:
        first, *_ = rights(operation, device)
        return [first, Right("wrong", type(first.subject)(NormOneLess()), first.contract)]

    monkeypatch.setattr(command, "rights", with_a_wrong_one)
    asked = ("--device", "cpu", "--op", "rms_norm", "--elements", "1e5", "--out", str(tmp_path / "soak.jsonl"))
    status = main(asked)
    named = {row["implementation"]: row for row in _rows(tmp_path / "soak.jsonl")[1:]}
    said = capsys.readouterr().out

    assert status == 1
    assert not named["CorrectNorm"]["failures"]
    assert named["wrong"]["failures"]
    assert named["wrong"]["first"]["operation"] == "rms_norm"
    assert "elements outside" in named["wrong"]["why"]
    assert f"rms_norm wrong: {named['wrong']['why']}" in said


def test_what_passes_though_it_is_wrong_is_amiss() -> None:
    """A row of wrong results must have failures only, and some."""
    caught, missed, untried = (
        Row("softmax", WRONG, True, 10, cases, failures) for cases, failures in ((3, 3), (3, 2), (0, 0))
    )

    assert [False, True, True] == [row.amiss for row in (caught, missed, untried)]
    assert table([caught, missed]).splitlines()[-1] == "6 results with one wrong element: 1 passed"


def test_an_end_before_the_first_call_is_said(tmp_path: Path) -> None:
    """A soak that compares nothing is no soak that finds nothing."""
    out = tmp_path / "soak.jsonl"

    assert main(("--device", "cpu", "--op", "softmax", "--minutes", "0", "--out", str(out))) == 1
    assert [("soak", "TimeoutError: the time was over before the first call")] == [
        (row["implementation"], row["why"]) for row in _rows(out)[1:]
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn], ids=str)
def test_twice_the_bound_is_twice_the_bound(dtype: torch.dtype) -> None:
    """The number is one of the dtype, at least twice as far as the bound, and not four times."""
    eps = torch.finfo(dtype).eps
    for middle, half in ((1.0, 0.0), (1.0 + eps / 2, 0.0), (-1.7, 1e-9), (1.999, eps), (3.0, 2 * eps)):
        stored = twice_off(middle - half, middle + half, dtype)
        bound = half + eps * 2.0 ** math.floor(math.log2(abs(middle))) / 2

        assert round_once(torch.tensor(stored, dtype=torch.float64), dtype) == stored
        assert 2 * bound <= abs(stored - middle) <= 4 * bound


def test_every_form_has_a_name() -> None:
    """Forms are named once."""
    assert len(VARIATIONS) == len({each.name for each in VARIATIONS})


def test_a_bound_is_that_of_the_rows_that_are_judged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row of exact numbers has no bound alone, and one beside others."""
    flags = (("eps", 1e-6), ("weight_offset", 0.0))
    case = Case("rms_norm", (("x", TensorSpec((8, 16), "float32")),), flags)
    each, values, asked = rights("rms_norm", "cpu")[0], values_of(case), list[slice]()

    def noted(*given: Any) -> Any:
        asked.append(given[4])
        return intervals(*given)

    monkeypatch.setattr(misses, "intervals", noted)
    y = torch.nn.functional.rms_norm(values["x"], (16,), eps=1e-6)
    rng = random.Random(0)  # noqa: S311 - reproducible, not secret

    assert misses.put_off(each, case, values, (y,), 0, rng)
    assert list(chunks(each.subject, case)) == asked == [slice(0, 8)]
