"""The survey finds the calls that an implementation takes; these are judged as thoroughly as a whole profile."""

from __future__ import annotations

from functools import partial

import pytest

from conformance import report
from conformance.adapter import Declined
from conformance.calls.call import Subject
from conformance.calls.claim import claim, pasted, said, sizes_of
from conformance.calls.verdict import BAD, Status, Verdict
from conformance.cases.case import Case
from conformance.cases.factors import Numbers
from conformance.operations import OPERATIONS
from conformance.runs import journal
from conformance.runs.item import Item, cases_of, items
from conformance.runs.judge import judge_item, lacking_evidence, surveyed, tried
from conformance.runs.survey import Survey, Tried, budget_of, numbers, survey
from conformance.selftest import evidence
from conformance.selftest.fakes import dtypes, rounding, state, strides, value_range
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.partial import Everything, Half, OneInFifty, Pairs

OPERATION = "rms_norm_gated"
NARROW = (
    "takes rank 3, 128 columns, gate after the norm, activation silu or swish, "
    "a weight in x's dtype; bf16, fp16 and fp32"
)
FOUND: dict[tuple[type[Correct], int], Survey] = {}


def _found(kind: type[Correct], seed: int = 0) -> Survey:
    if (kind, seed) not in FOUND:
        subject = Subject(kind())
        FOUND[kind, seed] = surveyed(OPERATION, subject, partial(tried, subject), profile="quick", seed=seed)
    return FOUND[kind, seed]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Everything, "takes everything; bf16, fp16 and fp32"),
        (Half, "takes rank 2 or 3; bf16, fp16 and fp32"),
        (OneInFifty, NARROW),
        (Pairs, "takes not activation sigmoid with norm_before_gate no; bf16, fp16 and fp32"),
    ],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_conjunction_is_found(kind: type[Correct], words: str, seed: int) -> None:
    """A few calls show which levels and widths go together, for any seed."""
    found = _found(kind, seed)

    assert words == said(OPERATION, found.taken)
    assert found.calls <= budget_of("quick")


def test_a_partial_implementation_is_judged_on_as_many_calls() -> None:
    """Every item of quick has nine tenths of the judged cases of an implementation that takes everything."""
    found = {kind.__name__: evidence.judged(kind, "quick") for kind in evidence.KINDS}
    judged = [name for name, count in found["Everything"].items() if count and " float" in name]

    assert [] == [said for said in evidence.lacking(found) if " took " not in said]
    assert len(judged) > 25


@pytest.mark.parametrize(
    ("kind", "declined"),
    [
        (Everything, set()),
        (Half, {"x without a dimension"}),
        (OneInFifty, {"x without a dimension", "x of integers", "weight of integers"}),
    ],
)
def test_only_wrong_calls_that_are_not_taken_are_declined(kind: type[Correct], declined: set[str]) -> None:
    """Every other wrong call is made of a call that is taken, and judged: evidence may leave out no more."""
    subject, found = Subject(kind()), _found(kind)
    errors = items(subject, operations=(OPERATION,), properties=("errors",))
    verdicts = [verdict for item in errors for verdict in judge_item(item, subject, found=found)]
    invalid = {str(verdict.case.invalid) for verdict in verdicts}

    assert set(OPERATIONS[OPERATION].invalid) == invalid
    for name in invalid:
        expected = (Status.DECLINED, "not this one") if name in declined else (Status.PASSED, None)
        of_it = [verdict for verdict in verdicts if verdict.case.invalid == name]
        assert {expected[0]} == {verdict.status for verdict in of_it}, name
        assert expected[1] in {None, *(verdict.reason for verdict in of_it)}


def test_a_sample_is_as_large_where_little_is_taken() -> None:
    """Properties that sample cases of values have as many in ci too, most of them of a covering array."""
    item = Item(OPERATION, "sensitivity", "float32", "ci")
    whole = set(cases_of(item, Subject(Everything()), Survey()))
    part = set(cases_of(item, Subject(OneInFifty()), _found(OneInFifty)))

    assert len(part) >= 0.9 * len(whole)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"values float32": 8}, ["Half: 8 cases of values float32, Everything has 10"]),
        ({"seconds": 14.0}, ["Half: 14 s, Everything took 10"]),
        ({"bad verdicts": 1}, ["Half: 1 bad verdicts"]),
        ({"errors float32": 1}, []),
    ],
)
def test_a_lack_of_evidence_is_told(changes: dict[str, float], said: list[str]) -> None:
    """Fewer cases, more time and bad verdicts are reported; a wrong call may be refused."""
    whole = {"values float32": 10, "errors float32": 10, "bad verdicts": 0, "seconds": 10.0}

    assert said == evidence.lacking({"Everything": whole, "Half": {**whole, **changes}})


# twenty places in which a mistake can be planted
PLANTED = (
    strides.GateHasStridesOfX,
    strides.XTakenForContiguous,
    strides.GateTakenForContiguous,
    strides.WeightTakenForContiguous,
    strides.UnitLastStride,
    strides.OneRowStride,
    strides.AddressRoundedDown,
    dtypes.WeightRounded,
    dtypes.GateCastToDtypeOfX,
    dtypes.SquaresInDtypeOfX,
    dtypes.SumsInLowPrecision,
    rounding.TruncatesAtTheStore,
    rounding.RoundsBeforeTheWeight,
    rounding.RoundsTheActivation,
    rounding.RoundsInverseRms,
    rounding.CoarseRsqrt,
    rounding.SigmoidFromTanh,
    state.WeightCached,
    state.EpsCached,
    value_range.GateClamped,
)


@pytest.mark.parametrize("fake", PLANTED, ids=lambda fake: fake.__name__)
def test_a_mistake_inside_of_a_narrow_claim_is_found(fake: type[Correct]) -> None:
    """A mistake is caught if one call in fifty is taken, as if all are."""
    narrow = type(f"Narrow{fake.__name__}", (OneInFifty, fake), {"caught_by": fake.caught_by})
    subject = Subject(narrow())
    chosen = items(subject, operations=(OPERATION,), properties=("values", "layout", "specials"))
    order = sorted(chosen, key=lambda item: (item.property not in fake.caught_by, item.property))
    found = _found(OneInFifty)
    verdicts = (verdict for item in order for verdict in judge_item(item, subject, found=found))
    first = next((verdict for verdict in verdicts if verdict.status in BAD), None)

    assert first is not None


def test_a_claim_that_was_learned_can_be_pasted() -> None:
    """The text of a claim, read as an adapter's, equals the survey's result."""
    for kind in (Half, OneInFifty, Pairs):
        taken = _found(kind).taken
        given = eval(f"{{{pasted(OPERATION, taken)}}}")  # noqa: S307 - text that was made here

        assert taken == claim("takes", OPERATION, given[OPERATION])


def test_a_survey_survives_json() -> None:
    """Workers share surveys as files."""
    found = _found(OneInFifty)

    assert found == Survey.from_data(found.to_data())


@pytest.mark.parametrize(
    ("taken", "refused", "expected"),
    [
        ([128, 64, 1], [], None),
        ([128], [64, 256], (128,)),
        ([8, 64, 1024], [1, 7, 2, 12, 100], range(8, 1025, 8)),
        ([1, 7, 128], [4096], range(1, 129)),
        ([16, 128, 1024], [24, 4096, 96, 768], (16, 32, 64, 128, 256, 512, 1024)),
        ([100, 128, 4096], [64, 96, 1024], (100, 128, 4096)),
    ],
)
def test_widths_are_told_in_the_simplest_way(
    taken: list[int], refused: list[int], expected: Numbers | None
) -> None:
    """Widths are described as steps, powers of two, or the numbers themselves."""
    assert expected == numbers(taken, refused)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "widths",
    [range(1, 4101), range(48, 16385), range(8, 6001, 8), range(96, 20481, 32), range(1, 8193), range(4, 3000, 4)],
    ids=str,
)
def test_the_narrowest_and_the_widest_row_are_found(widths: range, seed: int) -> None:
    """The survey finds both between the widths that it tries first, within the budget."""

    def attempt(case: Case) -> Tried:
        columns = sizes_of(case)["columns"]
        return Tried("" if columns in widths else f"no {columns} columns")

    found = survey(OPERATION, attempt, device="cpu", seed=seed, budget=budget_of("quick"))

    assert (("columns", widths),) == found.taken.sizes
    assert frozenset() == found.taken.apart
    assert found.calls <= budget_of("quick")


def test_nothing_taken_costs_no_more_than_the_budget() -> None:
    """The search for a first call ends."""
    calls: list[Case] = []

    def refuse(case: Case) -> Tried:
        calls.append(case)
        return Tried("no")

    found = survey(OPERATION, refuse, device="cpu", seed=0, budget=60)

    assert (0, 60) == (found.ran, len(calls))
    assert (("no", 60),) == found.refusals


def test_crashes_of_a_survey_are_kept_one_of_a_kind() -> None:
    """A raising call is not taken, but its case is judged, so that no gap is silent."""

    class Raises(Everything):
        """An implementation that raises for one rank."""

        def accepts(self, x: object, *rest: object, **flags: object) -> bool:
            """Raise where x has one dimension."""
            if len(getattr(x, "shape", ())) == 1:
                message = f"index {id(x)} is out of range"
                raise IndexError(message)
            return True

    found = _found(Raises)
    subject = Subject(Raises())
    crashed = found.crashes[0]
    verdicts = list(judge_item(Item(OPERATION, "claim", crashed.dtype), subject, found=found))

    assert "takes rank 2, 3 or 4; bf16, fp16 and fp32" == said(OPERATION, found.taken)
    assert 1 <= len(found.crashes) <= 2
    assert (crashed, Status.CRASHED) in {(verdict.case, verdict.status) for verdict in verdicts}


class Refuses(Correct):
    """An implementation that refuses most of its claimed calls."""

    def rms_norm_gated(self, *given: object, **flags: object) -> object:  # type: ignore[override]  # on purpose
        """Refuse."""
        raise Declined("not today")


def test_a_refusal_inside_of_a_claim_fails() -> None:
    """Every call inside a claim must run."""
    subject = Subject(Refuses())
    [first] = [i for i in items(subject, operations=(OPERATION,), properties=("values",)) if i.dtype == "float32"]
    verdicts = list(judge_item(first, subject))

    assert {("claim", Status.FAILED)} == {(verdict.property, verdict.status) for verdict in verdicts}
    assert "declined what is claimed: not today" == verdicts[0].reason


@pytest.mark.parametrize(
    ("passed", "declined", "lacks"), [(10, 0, False), (0, 10, True), (1, 9, True), (5, 5, False), (0, 0, False)]
)
def test_too_few_judged_calls_are_no_evidence(passed: int, declined: int, lacks: bool) -> None:  # noqa: FBT001
    """Declined calls do not count, and an item with too few judged calls does not hold."""
    item = Item(OPERATION, "values", "float32")
    plain = next(cases_of(item, Subject(Correct())))
    verdicts = [Verdict("values", plain, Status.PASSED)] * passed
    verdicts += [Verdict("values", plain, Status.DECLINED, "too wide")] * declined
    said_of_it = lacking_evidence(item, verdicts)

    assert lacks == bool(said_of_it)
    assert not lacks or "too wide" in said_of_it


@pytest.mark.parametrize(("prop", "alarms"), [("determinism", 1), ("claim", 0), ("values", 0)])
def test_crashes_of_a_survey_that_no_item_judges_are_an_alarm(prop: str, alarms: int) -> None:
    """A run of other properties does not hide that calls crash."""
    case = next(cases_of(Item(OPERATION, "values", "float32"), Subject(Correct())))
    item = {"item": f"{OPERATION}/{prop}/float32/0"}
    lines: list[journal.Line] = [
        {"event": "judged", "property": prop, "status": "passed", "id": case.id, **item},
        {"event": "finished", "array": [0, 0], **item},
    ]
    header = report.header(Subject(Correct()), profile="quick", seed=0)
    surveys = {OPERATION: Survey(calls=2, ran=1, crashes=(case,))}
    built = report.build(journal.merge(lines), header, [item["item"]], 1.0, surveys=surveys)

    assert alarms == len(built.footer.alarms)
    assert (report.Exit.FAILED if alarms else report.Exit.HOLDS) == built.footer.exit_code
