"""Runs of one seed must agree in everything, and runs of all seeds must pass: the check can fail."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.selftest.seeds import disagreements, main, summary


def report(seed: int, worst: float = 0.5, code: int = 0, commit: str = "c0ffee") -> dict[str, Any]:
    """Return a run's report, with only the parts that are read."""
    return {
        "header": {"commit": commit, "seed": seed},
        "results": [{"operation": "rms_norm", "counts": {"passed": 3}, "worst": worst}],
        "footer": {"cases": 3, "elements": 9, "verdicts": {"passed": 3}, "complete": True, "exit_code": code},
    }


def test_runs_that_agree_are_summed_up() -> None:
    """Other seeds have other cases; a run has its seed, and all else is in the common header."""
    made = summary({"a": report(0), "b": report(0), "c": report(1, worst=0.25)})

    assert [] == disagreements(made)
    assert {"commit": "c0ffee"} == made["header"]
    assert [0, 0, 1] == [run["seed"] for run in made["runs"].values()]
    assert made["runs"]["a"]["results"] != made["runs"]["c"]["results"]


@pytest.mark.parametrize(
    ("other", "said"),
    [(report(0, worst=0.25), "b differs from a"), (report(1, code=1), "b ended with 1")],
    ids=["another worst error", "a failure"],
)
def test_a_disagreement_is_noticed(other: dict[str, Any], said: str) -> None:
    """One digit of one row is enough, and so is one run with a failure."""
    (found,) = disagreements(summary({"a": report(0), "b": other}))

    assert found.startswith(said)


def test_runs_of_two_commits_are_not_compared() -> None:
    """Differences between commits say nothing about seeds."""
    with pytest.raises(ValueError, match="runs differ in commit"):
        summary({"a": report(0), "b": report(0, commit="decade")})


def test_folders_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    """Without folders there is no summary."""
    assert 2 == main([])
    assert "must be those of finished runs" in capsys.readouterr().err
