"""A call has its import's global state, and leaves the suite's state unchanged, whatever it changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from conformance.calls import state_guard
from conformance.calls.call import Subject
from conformance.calls.state_guard import captured, differences, guarded, noticed, settle
from conformance.calls.verdict import Status
from conformance.runs.judge import judge
from conformance.selftest.calls.test_budget import CASE
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.processes import ran_alone


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[None]:
    """Begin without an import, and restore the state after each test."""
    monkeypatch.setattr(state_guard, "_PROCESS", state_guard._Process())
    monkeypatch.setenv("SET_BEFORE", "1")
    with guarded():
        pass
    before = captured()
    yield
    state_guard.put(before, captured())


def _replace_a_method() -> None:
    torch.Tensor.add = None  # type: ignore[assignment]  # a mistake


CHANGES: dict[str, Callable[[], Any]] = {
    "the default dtype from float32 to bfloat16": lambda: torch.set_default_dtype(torch.bfloat16),
    "the default device from none to meta": lambda: torch.set_default_device("meta"),
    "inference mode from False to True": lambda: state_guard._put_inference(True),
    "grad mode from True to False": lambda: torch.set_grad_enabled(False),
    "deterministic algorithms from 0 to 2": lambda: torch.use_deterministic_algorithms(True),
    "float32 matmul precision from highest to medium": lambda: torch.set_float32_matmul_precision("medium"),
    "flushing of subnormal numbers from False to True": lambda: torch.set_flush_denormal(True),
    f"the working directory from {Path.cwd()} to /": lambda: os.chdir("/"),
    "torch.equal": lambda: setattr(torch, "equal", None),
    "torch.empty": lambda: delattr(torch, "empty"),
    "torch.nn.functional.silu": lambda: setattr(torch.nn.functional, "silu", None),
    "torch.Tensor.add": _replace_a_method,
    "the hooks of all modules": lambda: torch.nn.modules.module.register_module_forward_hook(print),
    "the environment variable SET_BEFORE": lambda: os.environ.pop("SET_BEFORE"),
    "the stack of dispatch modes": lambda: FakeTensorMode().__enter__(),
    "the stack of function modes": lambda: torch.device("meta").__enter__(),
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_change_is_noticed_and_put_back(words: str) -> None:
    """The message names the change; afterwards the suite computes as before."""
    before = captured()
    with noticed() as changed, guarded():
        CHANGES[words]()

    # gradients are off in inference mode as well
    assert [words] == [each for each in changed if each == words or not words.startswith("inference")]
    assert () == differences(before, captured(), harmless=True)
    assert torch.equal(torch.empty(3).fill_(1).add(1), torch.tensor([2.0, 2.0, 2.0]))
    assert state_guard.healthy()


@pytest.mark.parametrize("words", ["torch.equal", "torch.empty", "torch.nn.functional.silu", "torch.Tensor.add"])
def test_a_change_is_noticed_after_a_harmless_one(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that adds a name changes nothing, nor do calls after it; one that replaces a function does."""
    settle(captured())
    for owner in (torch, torch.nn.functional, torch.Tensor):
        monkeypatch.setattr(owner, "new_here", None, raising=False)
    for call, want in ((lambda: None, []), (lambda: None, []), (CHANGES[words], [words]), (lambda: None, [])):
        with noticed() as changed, guarded():
            call()

        assert want == changed


def test_threads_and_random_numbers_are_no_change() -> None:
    """The number of threads is restored without a message; the random state stays advanced."""
    before, drawn = torch.get_num_threads(), torch.get_rng_state()
    with noticed() as changed, guarded():
        torch.set_num_threads(before + 1)
        torch.rand(3)
        os.environ["NEW_HERE"] = "1"

    assert [] == changed
    assert before == torch.get_num_threads()
    assert not torch.equal(drawn, torch.get_rng_state())
    assert "1" == os.environ.pop("NEW_HERE")


def test_the_compiler_imported_by_a_call_is_no_change() -> None:
    """Dynamo replaces functions of torch where it is imported, with torch 2.10 by the first call that compiles."""
    code = """
import sys
from conformance.calls.state_guard import captured, differences
assert "torch._dynamo" not in sys.modules
before = captured()
import torch._dynamo
assert () == differences(before, captured())
"""
    done = ran_alone(code)

    assert 0 == done.returncode, done.stderr


def test_a_call_has_what_its_import_left() -> None:
    """Between calls the suite's state holds; changes by the import are not changes of a call."""
    before = captured()
    torch.set_default_dtype(torch.float64)
    theirs: Any = print
    torch.equal = theirs
    said = settle(before)
    seen = []
    for _ in range(2):
        with noticed() as changed, guarded():
            seen.append((torch.get_default_dtype(), torch.equal, changed))
        seen.append((torch.get_default_dtype(), torch.equal, []))

    assert ("the default dtype from float32 to float64", "torch.equal") == said
    assert 2 * [(torch.float64, theirs, []), (torch.float32, before.attributes[0]["equal"], [])] == seen


def test_what_cannot_be_put_back_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a process is not healthy, and another process goes on."""
    stuck = state_guard.Setting("a switch", lambda: len(seen), lambda _: None)
    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(state_guard, "SETTINGS", (*state_guard.SETTINGS, stuck))
        with noticed() as changed, guarded():
            seen.append(1)

    assert ["a switch from 0 to 1"] == changed
    assert not state_guard.healthy()


def test_calls_of_several_threads_are_one() -> None:
    """State is compared around all of them, so that no call is blamed for another's change."""
    with noticed() as changed, guarded():
        thread = threading.Thread(target=lambda: guarded().__enter__())
        thread.start()
        thread.join()
        torch.set_default_dtype(torch.float64)
        with guarded():
            pass
        inside = list(changed)

    assert [] == inside
    assert ["the default dtype from float32 to float64"] == changed


class Switches(Correct):
    """A norm that changes the default dtype."""

    def rms_norm_gated(self, *arguments: Any, **flags: Any) -> torch.Tensor:
        """Change the default dtype, and return the right result."""
        torch.set_default_dtype(torch.bfloat16)
        return super().rms_norm_gated(*arguments, **flags)


@pytest.mark.parametrize("prop", ["values", "determinism"])
def test_a_change_is_a_verdict_of_its_own(prop: str) -> None:
    """Calls of every property show the change; the property itself is judged as without it."""
    verdicts = {verdict.property: verdict for verdict in judge(Subject(Switches()), prop, CASE)}
    left = verdicts.pop("state_left_behind")

    assert (Status.FAILED, "the call changed the default dtype from float32 to bfloat16") == (
        left.status,
        left.reason,
    )
    assert {Status.PASSED, Status.NOT_JUDGED} >= {verdict.status for verdict in verdicts.values()}
    assert Status.PASSED is verdicts[prop].status
