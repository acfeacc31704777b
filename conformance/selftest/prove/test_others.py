"""The models of other suites: what they call, how they compare, and what they find in fakes and right forms."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.adapter import Adapter
from conformance.calls.call import Subject
from conformance.cases.case import Layout, TensorSpec
from conformance.operations import OPERATIONS
from conformance.prove.copies import ROOT
from conformance.prove.others.__main__ import added, read, shown, write
from conformance.prove.others.comparing import OUTPUTS, VALUES, cases, in_float32, values, wrong
from conformance.prove.others.judging import CRASH, EXCEPTION, NAMED, asked, comparable, contained, judged
from conformance.prove.others.memory import placed, pooled
from conformance.prove.others.picture import draw
from conformance.prove.others.suites import NORMS, SUITES, Part, Rule, every
from conformance.prove.others.tables import OURS, OUTSIDE, Count, Row, counted, told
from conformance.selftest.fakes import CLASSES, Fake
from conformance.selftest.fakes.correct_norm import CorrectNorm, Result
from conformance.selftest.fakes.correct_rotation import EagerRotation
from conformance.selftest.fakes.in_place import InPlaceForgetsTheSum
from conformance.selftest.fakes.norm_steps import NormTruncatesAtTheStore, NormXTakenForContiguous
from conformance.selftest.processes import ran

RECORD = ROOT / "reports" / "others.jsonl"
STEPS = {"_Norm", "_GatedNorm", "NormInRegisters"}  # of others: they store nothing
RIGHT = [
    pytest.param(kind, name, id=f"{kind.__name__}-{name}")
    for kind in CLASSES
    if kind.__module__.rpartition(".")[2].startswith("correct") and issubclass(kind, Adapter)
    for name in getattr(kind, "operations", ())
    if kind.__name__ not in STEPS and comparable(Subject(kind()), name)
]
NORM = Part(("rms_norm",), {"float32": (1e-2, 1e-1)})


class Doubles(CorrectNorm):
    """A norm twice too large."""

    def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Store two times y."""
        return super().store(2.0 * y, x)


class Ends(CorrectNorm):
    """A norm that ends its process."""

    def norm(self, *given: Any, **flags: Any) -> Result:
        """End the process."""
        os._exit(1)


class Raises(CorrectNorm):
    """A norm that raises."""

    def norm(self, *given: Any, **flags: Any) -> Result:
        """Raise."""
        raise RuntimeError("not today")


@pytest.mark.parametrize(("kind", "operation"), RIGHT)
def test_a_right_implementation_passes_every_model(kind: Fake, operation: str) -> None:
    """No model finds anything in an implementation that is right: whatever it finds is a bug's."""
    subject = Subject(kind())
    found = {suite: judged(suite, operation, subject) for suite in NAMED}

    assert {} == {suite: word for suite, word in found.items() if word}


@pytest.mark.parametrize("suite", NAMED)
def test_every_model_catches_a_gross_mistake(suite: str) -> None:
    """Twice the right result fails by the values, and an exception counts as caught."""
    assert VALUES == judged(suite, "rms_norm", Subject(Doubles()))
    assert EXCEPTION == judged(suite, "rms_norm", Subject(Raises()))


@pytest.mark.parametrize("suite", NAMED)
def test_no_model_catches_a_truncated_store(suite: str) -> None:
    """Low bits that are cut off are within every tolerance."""
    assert not judged(suite, "rms_norm", Subject(NormTruncatesAtTheStore()))


def test_gaps_show_where_a_suite_has_them() -> None:
    """A norm that takes rows for packed passes where all rows are, and fails on rows with gaps."""
    subject = Subject(NormXTakenForContiguous())

    assert ["", VALUES] == [judged(suite, "rms_norm", subject) for suite in ("Liger", "vLLM core")]


def test_an_in_place_form_is_judged_by_its_arguments() -> None:
    """A sum that is not written over the residual fails where a suite calls the in-place form, and only there."""
    subject = Subject(InPlaceForgetsTheSum())

    assert ["", VALUES] == [judged(suite, "rms_norm", subject) for suite in ("Liger", "FlashInfer")]


def test_a_process_that_ends_is_caught() -> None:
    """A crash costs no more than its process; a suite without the operation is outside."""
    found = contained(Ends(), "gemma_rms_norm")

    assert (CRASH, OUTSIDE) == (found["Liger"], found["OpInfo samples"])


def test_what_rounds_elsewhere_is_compared_with_nothing() -> None:
    """A rotation that rounds its products, as it declares, is no bug that a reference in float32 may find."""
    assert {OUTSIDE} == set(contained(EagerRotation(), "mrope").values())


@pytest.mark.parametrize(
    ("rule", "right", "mistaken"),
    [
        # atol 0.01 and rtol 0.1 on numbers of size 2; PyTorch in low precision is 0.3 off in one element
        (Rule.CLOSE, 0.2, 0.22),
        (Rule.RATIO, 0.79, 0.81),
        (Rule.WARNS, 0.79, 0.81),
        (Rule.TWICE, 0.6, 0.62),
    ],
)
def test_each_rule_has_its_limit(rule: Rule, right: float, mistaken: float) -> None:
    """One element of sixteen off by a little less than a rule allows passes; a little more fails, as NaN does."""
    part = Part(NORM.operations, NORM.limits, rule, without=(("residual",),))
    case = next(cases(part, "rms_norm"))
    want = torch.full((4, 4), 2.0)

    def judged_by(error: float) -> str:
        got, low = want.clone(), want.clone()
        got[1, 1] += error
        low[2, 2] += 0.3
        return wrong(part, case, (got,), (want,), (low,), checks_dtype=True)

    assert ["", VALUES, VALUES] == [judged_by(error) for error in (right, mistaken, math.nan)]


def test_a_warning_is_no_failure() -> None:
    """Where small differences only warn, all of them may be off by what warns."""
    limits = {"float32": (0.3, 1e-3)}
    case = next(cases(NORM, "rms_norm"))
    want = torch.ones(4, 4)
    found = [
        wrong(Part(("rms_norm",), limits, rule), case, (want + off,) * 2, (want,) * 2, (), checks_dtype=True)
        for rule, off in ((Rule.RATIO, 0.2), (Rule.WARNS, 0.2), (Rule.WARNS, 0.4))
    ]

    assert [VALUES, "", VALUES] == found


def test_outputs_are_compared_before_their_numbers() -> None:
    """Too few outputs, another shape and another dtype are wrong; the dtype only where a suite looks at it."""
    case = next(cases(NORM, "rms_norm"))
    y, low = torch.ones(3), torch.ones(3, dtype=torch.float16)
    found = [
        wrong(NORM, case, got, (y, y), (), checks_dtype=checks_dtype)
        for got, checks_dtype in (((y,), True), ((y, y[:1]), True), ((y, low), True), ((y, low), False))
    ]

    assert [OUTPUTS, OUTPUTS, OUTPUTS, ""] == found


def test_the_models_call_what_they_name() -> None:
    """Every part calls each of its operations, in dtypes that it has limits for; all operations are called."""
    for suite in SUITES:
        assert suite.source.startswith("https://")
        for part in suite.parts:
            found = {case.operation: case for name in part.operations for case in cases(part, name)}
            assert set(part.operations) == set(found)
            assert {case.dtype for case in found.values()} <= set(part.limits)
    assert set(OPERATIONS) == {name for suite in SUITES for part in suite.parts for name in part.operations}
    assert all(asked(suite, "rms_norm") for suite in NAMED)


def test_values_follow_from_the_call() -> None:
    """The same call has the same numbers, of the distribution that a part names."""
    plain, ones, scaled = NORM, Part(NORMS, NORM.limits, weights="ones"), Part(NORMS, NORM.limits, values="scaled")
    uniform = Part(NORMS, NORM.limits, values="uniform")
    case = max(cases(plain, "rms_norm"), key=lambda each: each.tensors[0][1].shape[-1])
    first, again = values(plain, case), values(plain, case)
    _, n = case.tensors[0][1].shape

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["x"], first["residual"])
    assert torch.equal(torch.ones(n), values(ones, case)["weight"])
    assert torch.equal(first["x"] / (2 * n), values(scaled, case)["x"])
    assert pytest.approx(1.0, abs=0.1) == float(first["x"].std())
    assert pytest.approx(2.0, abs=0.1) == float(values(uniform, case)["x"].abs().max())
    assert pytest.approx(0.0, abs=0.1) == float(values(uniform, case)["x"].mean())


def test_positions_count_where_a_suite_counts() -> None:
    """Liger's positions are the same on all three axes, others are not."""
    case = next(cases(Part(("mrope",), every((0.0, 0.0), "float32")), "mrope"))
    liger, other = (
        values(Part(("mrope",), {}, positions=name), case)["positions"] for name in ("arange", "random")
    )

    assert torch.equal(torch.arange(liger.shape[1]).expand(3, -1), liger)
    assert not torch.equal(other[0], other[1])


def test_a_reference_in_float32_has_the_same_numbers() -> None:
    """Only the dtype of floats changes."""
    case = next(cases(Part(("rope",), every((0.0, 0.0), "bfloat16")), "rope"))
    given = values(NORM, case)
    wide, numbers = in_float32(case, given)

    assert {"float32", "int64"} == {spec.dtype for _, spec in wide.tensors}
    assert all(torch.equal(given[name].double(), numbers[name].double()) for name in given)


def test_memory_was_used_before() -> None:
    """Gaps and allocated memory hold the same ordinary numbers each time, or what poisons them."""
    x = placed(TensorSpec((2, 3), "float32", Layout("row_gap", 2)), torch.zeros(2, 3))
    with pooled(None):
        first, again = torch.empty(5), torch.empty(5)
    with pooled(math.nan):
        poisoned = torch.empty(5)

    assert (5, 1) == x.stride()
    assert torch.equal(torch.zeros(2, 3), x)
    assert float(x.as_strided((2,), (1,), x.storage_offset() + 3).abs().min()) > 0.0
    assert torch.equal(first, again)
    assert float(first.abs().min()) > 0.0
    assert bool(poisoned.isnan().all())


def test_the_table_counts_what_is_caught_of_what_is_called() -> None:
    """Bugs outside of a suite are in neither number, and both tables say that suites are modelled."""
    rows = [
        Row("a", "rms_norm", "", {"one": VALUES, "two": ""}),
        Row("b", "rope", "", {"one": OUTSIDE, "two": CRASH}),
    ]
    said = told({"date": "today"}, rows)

    assert (Count("one", 1, 1, 2, {VALUES: 1}), Count("two", 1, 2, 2, {CRASH: 1})) == counted(rows)
    assert "and not the suites" in said
    assert "| b | outside | crash |" in said


def test_a_run_gives_what_is_recorded(tmp_path: Path) -> None:
    """The rows of two bugs are those of the committed file."""
    out = tmp_path / "others.jsonl"
    names = ("vllm 41972", "aiter 2637")
    asked_for = [part for name in names for part in ("--bug", name)]
    ended = ran(tmp_path, "-m", "conformance.prove.others", "--out", str(out), *asked_for)
    assert ended.returncode == 0, ended.stderr
    known = {line["bug"]: line["found"] for line in map(json.loads, RECORD.read_text("utf-8").splitlines()[1:])}
    found = [json.loads(line) for line in out.read_text("utf-8").splitlines()[1:]]

    assert len(found) == 3
    assert all(line["found"].items() <= known[line["bug"]].items() for line in found)
    assert "models" in ended.stdout.casefold()


def test_a_model_is_added_to_known_rows(tmp_path: Path) -> None:
    """The column of a model stands where the models have it, beside all others; rows of other bugs end the run."""
    out = tmp_path / "others.jsonl"
    write(out, [Row("a", "rms_norm", "", {"Liger": VALUES, OURS: "values"})], 1)
    added(out, [Row("a", "rms_norm", "", {"TorchCTS": CRASH})], ["TorchCTS"])
    header, rows = read(out)

    assert ["Liger", "TorchCTS", OURS] == list(rows[0].found)
    assert [VALUES, CRASH, "values"] == list(rows[0].found.values())
    assert {"TorchCTS"} == set(header["added"])
    with pytest.raises(SystemExit, match="has other bugs"):
        added(out, [Row("b", "rms_norm", "", {"TorchCTS": CRASH})], ["TorchCTS"])


def test_rows_of_ours_that_lack_a_bug_end_the_run(tmp_path: Path) -> None:
    """A bug without a row was not judged, which must not look like one that was missed."""
    ended = ran(
        tmp_path, "-m", "conformance.prove.others", "--bug", "aiter 2637", "--ours", str(tmp_path / "none")
    )

    assert ended.returncode == 1
    assert "no row of 'aiter 2637: rms_norm_fp8', run: conform prove" in ended.stderr


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    """The picture is a PNG of at most 200 kB, the same each time."""
    header, rows = read(RECORD)
    first, again = tmp_path / "first.png", tmp_path / "again" / "again.png"
    draw(rows, header, first)
    draw(rows, header, again)

    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG")
    assert first.stat().st_size <= 200_000


def test_the_record_has_every_bug_of_a_forward_call() -> None:
    """Bugs of a backward are left out, which the models do not call."""
    names = {bug.id for bug in shown()}

    assert names == {row.bug for row in read(RECORD)[1]}
    assert "FlagGems 1084: rms_norm" not in names
