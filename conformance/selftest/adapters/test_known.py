"""The known adapters are described without importing an implementation, and ours among them hold what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance import report
from conformance.adapter import KNOWN, UsageError, find, load
from conformance.calls.call import Subject
from conformance.calls.verdict import BAD, Status
from conformance.cases.case import Case, Flag, TensorSpec
from conformance.operations import OPERATIONS
from conformance.properties.passive import judge_call
from conformance.runs import describe
from conformance.selftest.processes import ran

IMPORTED = """
import sys
from conformance.adapter import KNOWN, find
for target in KNOWN:
    find(target)
print(sorted(sys.modules.keys() & {"triton", "transformers", "liger_kernel", "fla", "mamba_ssm", "xformers"}))
"""
GATED: tuple[tuple[str, Flag], ...] = (
    *(("activation", "silu"), ("eps", 1e-6), ("group_size", None)),
    ("norm_before_gate", True),
)
ROWS = TensorSpec((2, 33, 128), "bfloat16")
CALL = Case(
    "rms_norm_gated",
    (("x", ROWS), ("gate", ROWS), ("weight", TensorSpec((128,), "bfloat16", values="weight"))),
    GATED,
)


def test_finding_an_adapter_imports_no_implementation(tmp_path: Path) -> None:
    """A list of known adapters costs no import of other people's packages, and works without them."""
    said = ran(tmp_path, "-c", IMPORTED)

    assert ("[]\n", 0) == (said.stdout, said.returncode)


@pytest.mark.parametrize("target", KNOWN)
def test_every_known_adapter_is_described(target: str) -> None:
    """A line has its operations; each has a contract and what is taken of it, or that nothing is claimed."""
    claims = describe.claims(target)

    assert set(claims) == set(find(target).contracts)
    assert all(name in describe.implementation(target) for name in claims)
    assert all("; takes " in line or line.endswith("; makes no claim") for line in claims.values())


def test_arguments_that_calls_leave_out_are_described() -> None:
    """A mask has as many dimensions as x; a scale is one of some numbers, or None."""
    said = describe.arguments("softmax")

    assert ["x", "mask", "scale"] == list(said)
    assert f"{said['x']}, or None" == said["mask"]
    assert said["scale"].startswith("None, 0.125, ")


def test_a_package_that_is_missing_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version stands beside the package, or that it is not installed."""
    monkeypatch.setattr(describe, "version", {"torch": "2.13.0"}.get)

    assert describe.implementation("torch").startswith("torch 2.13.0: rms_norm, ")
    assert describe.implementation("quack").startswith("quack-kernels not installed: rms_norm, ")
    assert describe.implementation("original").startswith("no package: ")


def test_an_adapter_is_listed_by_its_name(tmp_path: Path) -> None:
    """The list of one adapter has contract and claim of each operation; another name is an error."""
    said = ran(tmp_path, "-m", "conformance", "list", "xformers")
    unknown = ran(tmp_path, "-m", "conformance", "list", "xformer")

    assert (0, 2) == (said.returncode, unknown.returncode)
    assert "rms_norm             {sum}; takes " in said.stdout
    assert "xformers" in unknown.stderr
    assert all(name in unknown.stderr for name in OPERATIONS)


def test_a_report_has_the_version_of_the_package() -> None:
    """The header names the distribution that an adapter calls; nothing where there is none."""
    torch, eager = (
        report.header(Subject(load(target)), profile="quick", seed=0).adapter for target in ("torch", "eager")
    )

    assert torch.package.startswith("torch 2.")
    assert eager.package == torch.package


@pytest.mark.parametrize("target", ["original", "multi-row", "eager"])
def test_a_design_written_anew_is_right_in_its_own_call(target: str) -> None:
    """Rows of 128, a gate after the norm, everything contiguous."""
    verdicts = judge_call(Subject(load(target)), CALL)

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert any(v.status is Status.PASSED and v.comparison.elements for v in verdicts)


def test_an_unknown_name_is_one_line() -> None:
    """Finding raises what loading raises."""
    with pytest.raises(UsageError, match="unknown target 'ligr'"):
        find("ligr")
