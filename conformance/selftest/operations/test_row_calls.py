"""Arguments, factors, mistakes and simpler calls follow from the tensors of an operation."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.cases.case import Case, Layout
from conformance.cases.factors import DTYPES, Scope, picked
from conformance.operations.row_calls import EPSILON, RowCalls, Setting
from conformance.operations.tensors import Beside, Columns, Rows

CALLS = RowCalls(
    "shifted",
    (
        Rows("x"),
        Beside("gate", ("same", "other", "none"), keyword=True),
        Columns("shift", ("same", "bfloat16", "none")),
    ),
    {"normal": ("normal", "gate", "weight"), "huge": ("huge", "gate", "weight")},
    (EPSILON, Setting("rounding_mode", {"nearest": "even", "down": "floor"}, "rounding")),
)


def _drawn(count: int = 200, **levels: str) -> list[Case]:
    """Return drawn cases, some of whose levels are given."""
    rng = random.Random(1)  # noqa: S311 - reproducible
    return [CALLS.complete({**picked(CALLS.factors, rng), **levels}, rng, Scope("float16")) for _ in range(count)]


def test_factors_follow_from_tensors_and_settings() -> None:
    """A tensor has a factor of its layout, and one of its dtype if it has several; eps has none."""
    assert {
        "gate",
        "gate_layout",
        "rank",
        "rounding",
        "rows",
        "shift",
        "shift_layout",
        "values",
        "width",
        "x_layout",
    } == set(CALLS.factors)
    assert "same" in CALLS.factors["gate_layout"]
    assert "same" not in CALLS.factors["x_layout"]
    assert ("same", "bfloat16", "none") == CALLS.factors["shift"]
    assert {"gate": ("same",), "shift": ("same",)} == CALLS.telling


def test_tensors_have_shapes_and_dtypes_that_fit() -> None:
    """Companions have x's shape, vectors its last dimension, and every level of a dtype occurs."""
    dtypes: dict[str, set[str]] = {}
    for case in _drawn():
        for name, spec in case.tensors:
            dtypes.setdefault(name, set()).add(spec.dtype)
            first = case.tensors[0][1].shape

            assert spec.shape == (first[-1:] if name == "shift" else first)
    assert {"x": {"float16"}, "gate": set(DTYPES), "shift": {"float16", "bfloat16"}} == dtypes


@pytest.mark.parametrize("name", ["gate", "shift"])
def test_a_tensor_that_may_be_left_out_sometimes_is(name: str) -> None:
    """Its level ``none`` makes a call without it."""
    assert [] == [case for case in _drawn(20, **{name: "none"}) if case.tensor(name)]
    assert all(case.tensor(name) for case in _drawn(20, **{name: "same"}))


def test_flags_are_the_settings() -> None:
    """A factor's level gives its value; a setting without levels is drawn."""
    cases = _drawn(rounding="down")

    assert {"floor"} == {case.flag("rounding_mode") for case in cases}
    assert set(EPSILON.drawn) == {case.flag("eps") for case in cases}


def test_an_optional_setting_is_left_out_where_it_is_none() -> None:
    """Its call passes None; a simpler call leaves it out, and its level is read from what is not there."""
    calls = RowCalls(
        "scaled", (Rows("x"),), {"normal": ("normal",)}, (Setting("scale", {"no": None, "half": 0.5}),)
    )
    plain, scaled = (
        calls.complete({**{name: levels[0] for name, levels in calls.factors.items()}, "scale": level}, rng, scope)
        for scope, rng, level in ((Scope("float16"), random.Random(0), level) for level in ("no", "half"))  # noqa: S311
    )

    assert ((), (("scale", 0.5),)) == (plain.flags, scaled.flags)
    assert ["no", "half"] == [calls.readers["scale"](case) for case in (plain, scaled)]
    assert plain in list(calls.simpler(scaled))
    assert plain.flags == calls.empties(Scope("float16"))[0].flags


def _said(call: dict[str, object]) -> dict[str, object]:
    """Return the arguments of a call as data that can be compared."""
    tensors = {n: (t.shape, t.dtype, t.device, t.layout) for n, t in call.items() if isinstance(t, torch.Tensor)}
    return {name: tensors.get(name, value) for name, value in call.items()}


def test_every_mistake_makes_one_argument_wrong() -> None:
    """A right call is changed in shape, dtype, device or layout, and each tensor can be wrong in several ways."""
    plain = {factor: levels[0] for factor, levels in CALLS.factors.items()}
    case = CALLS.complete({**plain, "rank": "3"}, random.Random(0), Scope("float16"))  # noqa: S311
    call = materialize(case, values_of(case), "cpu", POISONS[0]).arguments
    # a claim may leave out what can be left out
    for passed in (call, {**call, "gate": None, "shift": None}):
        for name, mistake in CALLS.mistakes.items():
            assert _said(passed) != _said(mistake(passed)), name
    assert {"gate", "shift", "x"} == {name.split()[0] for name in CALLS.mistakes}
    assert len(CALLS.mistakes) == 4 + 3 + 5


def test_a_simpler_call_has_one_thing_less() -> None:
    """Tensors that may be left out are; layouts, flags, dtypes, sizes and values become plain one at a time."""
    [case] = _drawn(1, gate="other", shift="bfloat16", rank="3", rows="few", values="huge", rounding="down")
    case = case.with_tensor("x", replace(case.tensors[0][1], layout=Layout("offset", 3)))
    simpler = list(CALLS.simpler(case))

    assert all(case.with_tensor(name, None) in simpler for name in ("gate", "shift"))
    assert case.with_flag("rounding_mode", "even") in simpler
    assert case.with_tensor("shift", replace(dict(case.tensors)["shift"], dtype="float16")) in simpler
    assert case not in simpler
    assert {"contiguous"} == {spec.layout.kind for _, spec in simpler[0].tensors}
    for each in simpler:
        first = each.tensors[0][1].shape
        assert all(spec.shape == (first[-1:] if name == "shift" else first) for name, spec in each.tensors)


def test_levels_are_read_back() -> None:
    """Each factor that is read from a case gives the level that the case was completed from."""
    for case in _drawn(50, gate="other", gate_layout="offset", shift="bfloat16", values="huge", rounding="down"):
        read = {name: reader(case) for name, reader in CALLS.readers.items()}

        assert "other" == read["gate"]
        assert ("bfloat16", "huge", "down") == (read["shift"], read["values"], read["rounding"])


def test_empty_calls_have_no_element() -> None:
    """They vary in companions alone, and every tensor fits."""
    empties = CALLS.empties(Scope("float16"))

    assert all(0 in case.tensors[0][1].shape for case in empties)
    assert {None, "float16", "bfloat16"} == {(s := case.tensor("gate")) and s.dtype for case in empties}
    assert all(case.tensors[0][1].shape[-1:] == s.shape for case in empties if (s := case.tensor("shift")))


def test_empty_calls_pass_what_must_be_passed() -> None:
    """A companion that cannot be left out is in every one, in the only dtype that it has."""
    needed = RowCalls("needed", (Rows("x"), Beside("up", ("same",))), {"normal": ("normal", "normal")})

    assert {"float16"} == {dict(case.tensors)["up"].dtype for case in needed.empties(Scope("float16"))}
