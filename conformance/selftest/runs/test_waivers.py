"""Known failures are waived while they fail, and the run is red as soon as they pass."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from conformance.adapter import UsageError
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case, Layout, TensorSpec
from conformance.oracle.comparison import NOTHING
from conformance.runs.waivers import Run, Waivers, load, stale

ISSUE = "https://example.org/norms/issues/12"
CASE = Case(
    "rms_norm_gated",
    (
        ("x", TensorSpec((2, 48), "bfloat16", Layout("step", 2))),
        ("gate", TensorSpec((2, 48), "float32")),
        ("weight", TensorSpec((48,), "bfloat16", values="weight")),
    ),
    (("activation", "silu"), ("eps", 1e-6), ("group_size", None), ("norm_before_gate", True)),
)
RUN = Run("cpu", "quick")
FAILED = Verdict("layout", CASE, Status.FAILED, "y[0, 0] = 1, must be exactly 2")


def _read(folder: Path, where: str, run: Run = RUN, rest: str = "") -> Waivers:
    """Return the waivers of a file with one, whose table ``where`` is given in TOML."""
    file = folder / "waivers.toml"
    file.write_text(f'[[waiver]]\nissue = "{ISSUE}"\nwhere = {{ {where} }}\n{rest}\n', encoding="utf-8")
    return load(file, run)


@pytest.mark.parametrize(
    ("where", "matches"),
    [
        ('operation = "rms_norm_gated"', True),
        ('operation = "rms_norm"', False),
        ('operation = ["rms_norm", "rms_norm_gated"]', True),
        ('property = "layout"', True),
        ('property = "values"', False),
        ('dtype = "bfloat16"', True),
        ('dtype = "float32"', False),
        ("n = 48", True),
        ("n = [47, 49]", False),
        ('n = "even"', True),
        ('n = "odd"', False),
        ('n = ["odd", 48]', True),
        ('layout = "step"', True),
        ('layout = "transposed"', False),
        ('layout = { x = "step", gate = "contiguous" }', True),
        ('layout = { gate = "step" }', False),
        ('layout = { residual = "contiguous" }', False),
        ('flags = { activation = "silu", group_size = "None" }', True),
        ('flags = { activation = ["swish", "sigmoid"] }', False),
        ("flags = { group_size = 16 }", False),
        ('flags = { unheard_of = "None" }', False),
        ('levels = { group = "none", activation = ["silu", "swish"] }', True),
        ('levels = { group = "several" }', False),
        ('levels = { order = "interleaved" }', False),
        ('device = "cpu"', True),
        ('device = "cuda"', False),
        ('profile = "quick"', True),
        ('profile = ["ci", "nightly"]', False),
        ('version = { torch = ">=2" }', True),
        ('version = { torch = "<2" }', False),
        ('version = { not-installed-anywhere = ">=0" }', False),
        ('operation = "rms_norm_gated", property = "layout", dtype = "bfloat16", n = 48', True),
        ('operation = "rms_norm_gated", property = "layout", dtype = "bfloat16", n = 47', False),
    ],
)
def test_every_key_narrows(where: str, matches: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """A failure is waived if all keys match it, and fails as usual if one does not."""
    verdict = _read(tmp_path, where).applied(FAILED)

    assert (Status.WAIVED if matches else Status.FAILED) == verdict.status
    assert matches == (ISSUE in verdict.reason)


@pytest.mark.parametrize("status", [Status.FAILED, Status.CRASHED, Status.HUNG])
def test_a_waived_verdict_says_what_it_was(status: Status, tmp_path: Path) -> None:
    """The reason has the original status, the waiver's reason and the issue; the rest of the verdict stays."""
    waivers = _read(tmp_path, 'property = "layout"', rest='reason = "reads its neighbour"')
    verdict = waivers.applied(replace(FAILED, status=status))

    assert f"{status}: reads its neighbour ({ISSUE})" == verdict.reason
    assert (FAILED.property, FAILED.case, NOTHING) == (verdict.property, verdict.case, verdict.comparison)


@pytest.mark.parametrize("status", [Status.PASSED, Status.DECLINED, Status.NOT_JUDGED, Status.ERROR])
def test_only_what_is_bad_is_waived(status: Status, tmp_path: Path) -> None:
    """A pass stays a pass, and counts against the waiver."""
    waivers = _read(tmp_path, 'property = "layout"')
    verdict = replace(FAILED, status=status)

    assert verdict == waivers.applied(verdict)
    assert (0,) == waivers.of(verdict)


def test_what_must_not_run_is_known_before_it_runs(tmp_path: Path) -> None:
    """``launches = false`` forbids exactly the matching calls; a waiver without it forbids none."""
    waivers = _read(tmp_path, 'property = "layout", n = 48', rest="launches = false")
    other = replace(CASE, tensors=tuple((n, replace(s, shape=(*s.shape[:-1], 16))) for n, s in CASE.tensors))
    forbidden = waivers.forbidden("layout", CASE)

    assert forbidden is not None
    assert (Status.WAIVED, f"not called: {ISSUE}") == (forbidden.status, forbidden.reason)
    # values of a strided case are evidence for layout, in any property
    assert forbidden == waivers.forbidden("values", CASE)
    assert (0,) == waivers.of(forbidden)
    assert waivers.forbidden("layout", other) is None
    assert waivers.forbidden("determinism", CASE) is None
    assert _read(tmp_path, 'property = "layout"').forbidden("layout", CASE) is None


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({"waived": 1}, ""),
        ({"waived": 1, "passed": 99}, ""),
        ({"passed": 99}, "nothing that it matches fails any more"),
        ({"passed": 1, "not_judged": 5}, "nothing that it matches fails any more"),
        ({"declined": 3}, "nothing that it matches fails any more"),
        ({}, "matches nothing"),
        ({"not_judged": 3}, ""),
        ({"not_judged": 1, "declined": 3}, ""),
    ],
)
def test_a_waiver_that_waives_nothing_has_to_go(counts: dict[str, int], why: str) -> None:
    """Both directions are strict; only a machine that cannot judge leaves it alone."""
    assert why == stale(counts)
    assert "" == stale(counts, strict=False)


@pytest.mark.parametrize(
    ("where", "held"),
    [
        ('operation = "rms_norm"', True),
        ('operation = "gemma_rms_norm"', False),
        ('property = "parity"', False),
        # judged in the same calls as values
        ('property = "memory"', True),
        ('device = "cuda"', False),
        ('profile = "ci"', False),
        (f'version = {{ torch = "!={metadata.version("torch")}" }}', False),
    ],
)
def test_a_run_is_not_held_to_what_it_cannot_show(where: str, held: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Waivers of other operations, properties, devices, profiles and versions are neither used nor stale."""
    waivers = _read(tmp_path, where, Run("cpu", "quick", ("rms_norm",), ("values",)))

    assert ((0,) if held else ()) == waivers.held


def test_what_a_property_says_nothing_of_holds_no_waiver(tmp_path: Path) -> None:
    """A run has no items there, so that it can neither show the divergence nor its end."""
    run = Run("cpu", "quick", ("rms_norm", "rms_norm_gated"), ("chain", "values"))

    assert () == _read(tmp_path, 'operation = "rms_norm_gated", property = "chain"', run).held
    assert (0,) == _read(tmp_path, 'operation = "rms_norm", property = "chain"', run).held
    assert (0,) == _read(tmp_path, 'operation = "rms_norm_gated", property = ["chain", "memory"]', run).held


def test_an_item_that_cannot_be_judged_counts_for_its_waivers(tmp_path: Path) -> None:
    """Only its operation, dtype and property are known."""
    waivers = _read(tmp_path, 'operation = "rms_norm", dtype = "float16", property = "memory", n = 3')

    assert (0,) == waivers.of_item("rms_norm", "values", "float16")
    assert () == waivers.of_item("rms_norm", "values", "float32")
    assert () == waivers.of_item("rms_norm", "determinism", "float16")
    assert () == waivers.of_item("gemma_rms_norm", "values", "float16")


# --- files --------------------------------------------------------------------------------------------------

HEAD = f'[[waiver]]\nissue = "{ISSUE}"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[waiver]]\nwhere = { n = 1 }\n", "issue=None: every waiver needs a link"),
        ('[[waiver]]\nissue = "12"\nwhere = { n = 1 }\n', "issue='12': every waiver needs a link"),
        ('[[waiver]]\nissue = "javascript:alert(1)"\nwhere = { n = 1 }\n', "every waiver needs a link"),
        (HEAD, "where=None, must be a table"),
        (HEAD + "where = {}\n", "where={}, must be a table"),
        (HEAD + 'where = "rms_norm"\n', "where='rms_norm', must be a table"),
        (HEAD + 'where = { n = 1 }\nlaunches = "no"\n', "launches and strict true or false"),
        (HEAD + 'where = { n = 1 }\nstrict = "no"\n', "launches and strict true or false"),
        (HEAD + "where = { n = 1 }\nreason = 3\n", "reason must be text"),
        (HEAD + "where = { n = 1 }\nlaunch = false\n", "has 'launch', must be one of"),
        (HEAD + "where = { rows = 1 }\n", "where has 'rows', must be one of"),
        (HEAD + 'where = { operation = "gelu" }\n', "operation='gelu', must be one of rms_norm"),
        (HEAD + 'where = { property = "speed" }\n', "property='speed', must be one of values"),
        (HEAD + 'where = { dtype = "bf16" }\n', "dtype='bf16', must be one of bfloat16"),
        (HEAD + "where = { dtype = [{}] }\n", "dtype={}, must be one of bfloat16"),
        (HEAD + 'where = { device = "gpu" }\n', "device='gpu', must be one of cpu, cuda"),
        (HEAD + 'where = { profile = "slow" }\n', "profile='slow', must be one of quick"),
        (HEAD + 'where = { layout = { x = "odd" } }\n', "layout='odd', must be one of contiguous"),
        (HEAD + 'where = { n = "128" }\n', "n='128', must be a width, even or odd, or a list"),
        (HEAD + "where = { flags = 3 }\n", "flags=3, must be a table"),
        (HEAD + 'where = { levels = { colour = "red" } }\n', "levels has 'colour', must be one of activation"),
        (HEAD + 'where = { levels = { group = "most" } }\n', "levels: group='most', must be one of none, several"),
        (HEAD + 'where = { version = { torch = "two" } }\n', "torch='two', must be versions"),
        (HEAD + "where = { version = { torch = 2 } }\n", "torch=2, must be versions"),
        (HEAD + 'where = { property = "memory" }\nlaunches = false\n', "launches = false stops calls"),
        ("waiver = 3\n", "waiver must be written [[waiver]]"),
        ("[[waivers]]\n", "the file has 'waivers', must be one of waiver"),
        ("[[waiver]\n", "is not TOML"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_is_refused_with_what_is_wrong(text: str | None, said: str, tmp_path: Path) -> None:
    """One line has the file, the waiver by its issue, the key, its value, and the requirement."""
    file = tmp_path / "waivers.toml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as refused:
        load(file, RUN)

    assert str(refused.value).startswith(str(file))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_may_be_empty(tmp_path: Path) -> None:
    """Removing the last waiver does not change the command."""
    file = tmp_path / "waivers.toml"
    file.touch()

    assert () == load(file, RUN).every
