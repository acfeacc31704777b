"""The judges of GPU-only properties, tried with stand-ins for graphs, streams and devices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from conformance.adapter import Outcome, Ran
from conformance.calls.call import Subject
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case, TensorSpec
from conformance.properties import PROPERTIES, device, graph, stream
from conformance.properties.compile import judge as judge_compiled
from conformance.selftest.fakes.correct import Correct
from conformance.selftest.fakes.kept import WeightKeptByAddress, WeightKeptOnTheTensor

CASE = Case(
    "rms_norm_gated",
    (
        ("x", TensorSpec((4, 128), "bfloat16")),
        ("gate", TensorSpec((4, 128), "bfloat16", values="gate")),
        ("weight", TensorSpec((128,), "bfloat16", values="weight")),
    ),
    (("activation", "silu"), ("eps", 1e-6), ("group_size", None), ("norm_before_gate", True)),
    seed=3,
)


def record_here(call: Callable[[], Outcome]) -> tuple[Outcome, Callable[[], None]]:
    """Return a graph that calls again and writes its results into the first outputs."""
    first = call()

    def replay() -> None:
        again = call()
        assert isinstance(first, Ran)
        assert isinstance(again, Ran)
        for output, new in zip(first.outputs, again.outputs, strict=True):
            output.copy_(new)

    return first, replay


def record_nothing(call: Callable[[], Outcome]) -> tuple[Outcome, Callable[[], None]]:
    """Return a graph that recorded nothing: the call ran on a stream that was not recorded."""
    return call(), lambda: None


@contextlib.contextmanager
def this_stream() -> Iterator[None]:
    """Return a context without another stream."""
    yield


class Early(Correct):
    """A norm of the values that x had in the previous call: it is launched on a stream that runs ahead."""

    before: torch.Tensor | None = None

    def rms_norm_gated(self, x: torch.Tensor, *tensors: Any, **flags: Any) -> torch.Tensor:
        """Use the last call's x."""
        given, self.before = x if self.before is None else self.before, x.clone()
        return super().rms_norm_gated(given, *tensors, **flags)


class KeptPerProcess(Correct):
    """A norm whose first call makes a tensor for all later calls, on any device."""

    kept: torch.Tensor | None = None

    def rms_norm_gated(self, *tensors: Any, **flags: Any) -> torch.Tensor:
        """Return one tensor in all calls, moved in the second."""
        if self.kept is None:
            self.kept = super().rms_norm_gated(*tensors, **flags)
            return self.kept
        return self.kept * 2


class Breaks(Correct):
    """A norm that reads a number from a tensor to decide, which no graph can record."""

    compiles = True

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Read the largest value."""
        return super().mean_square(grouped) * (1.0 if grouped.amax().item() > -1.0 else 2.0)


class AnotherWhenCompiled(Correct):
    """A norm that omits eps when it is compiled."""

    compiles = True

    def inverse_rms(self, grouped: torch.Tensor, eps: float) -> torch.Tensor:
        """Check whether the call is compiled."""
        return super().inverse_rms(grouped, 0.0 if torch.compiler.is_compiling() else 0.25)


class GraphPerSize(Correct):
    """A norm that decides by the number of rows in Python, so that every size has its own graph."""

    compiles = True

    def mean_square(self, grouped: torch.Tensor) -> torch.Tensor:
        """Use the number of rows as a number."""
        return super().mean_square(grouped) * (int(grouped.shape[0]) ** 0)

    def load(self, x: torch.Tensor) -> torch.Tensor:
        """Branch on each number of rows."""
        for rows in range(x.shape[0]):
            if rows == x.shape[0] - 1:
                return super().load(x)
        return super().load(x)


class Compiles(Correct):
    """A right norm, also when compiled."""

    compiles = True


def _status(verdicts: tuple[Verdict, ...]) -> list[Status]:
    return [verdict.status for verdict in verdicts]


@pytest.mark.parametrize(
    ("adapter", "record", "status"),
    [
        (Correct, record_here, Status.PASSED),
        (Correct, record_nothing, Status.FAILED),
        (WeightKeptOnTheTensor, record_here, Status.FAILED),
        (WeightKeptByAddress, record_here, Status.FAILED),
    ],
)
def test_a_graph_must_see_new_weights(adapter: type[Correct], record: graph.Record, status: Status) -> None:
    """A replay that repeats old results, or old weights, fails."""
    assert [status] == _status(graph.judge(Subject(adapter()), CASE, record))


@pytest.mark.parametrize(("adapter", "status"), [(Correct, Status.PASSED), (Early, Status.FAILED)])
def test_a_call_that_runs_ahead_of_its_stream_is_seen(adapter: type[Correct], status: Status) -> None:
    """Values from before the stream filled the inputs must not reach the outputs."""
    assert [status] == _status(stream.judge(Subject(adapter()), CASE, this_stream))


@pytest.mark.parametrize(("adapter", "status"), [(Correct, Status.PASSED), (KeptPerProcess, Status.FAILED)])
def test_the_second_device_is_judged(adapter: type[Correct], status: Status) -> None:
    """An implementation that serves only the first device fails on the second."""
    assert status is device.judge_on(Subject(adapter()), CASE, ("cpu", "cpu")).status


def test_outputs_must_lie_with_their_inputs() -> None:
    """A right result on another device is wrong."""

    class Elsewhere(Correct):
        def store(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return torch.empty(x.shape, dtype=x.dtype, device="meta")

    assert "lies on meta" in device.judge_on(Subject(Elsewhere()), CASE, ("cpu", "cpu")).reason


@pytest.mark.parametrize("fake", [Breaks, AnotherWhenCompiled, GraphPerSize])
def test_what_does_not_compile_whole_and_once_is_seen(fake: type[Correct]) -> None:
    """A graph break, other bits when compiled, and a graph for every size are seen."""
    case = replace(CASE, seed=5)

    assert [Status.PASSED] == _status(judge_compiled(Subject(Compiles()), case))
    assert [Status.FAILED] == _status(judge_compiled(Subject(fake()), case))


def test_where_the_suites_buffers_begin_needs_no_graph() -> None:
    """Tensors of two dtypes have other offsets in their buffers for every number of rows."""
    case = CASE
    for name, dtype in (("x", "float32"), ("gate", "bfloat16"), ("weight", "float32")):
        spec = dict(CASE.tensors)[name]
        case = case.with_tensor(name, replace(spec, dtype=dtype, shape=(*(1 for _ in spec.shape[1:]), 510)))

    assert [Status.PASSED] == _status(judge_compiled(Subject(Compiles()), case))


@pytest.mark.parametrize("name", ["graph", "stream", "device"])
def test_without_a_gpu_it_is_not_judged(name: str) -> None:
    """A machine that cannot judge names its missing requirement."""
    adapter = Correct()
    adapter.graphs = True

    assert "GPU" in PROPERTIES[name].cannot(Subject(adapter), "rms_norm", "bfloat16")


@pytest.mark.parametrize(
    ("name", "declared"),
    [
        ("compile", "compiles"),
        ("graph", "graphs"),
        ("scale", "scale_invariant"),
        ("threads", "deterministic"),
        ("variants", "few_variants"),
        ("padding_invariance", "batch_invariant"),
    ],
)
def test_only_what_is_declared_is_demanded(name: str, declared: str) -> None:
    """Without the declaration the property is not judged, with a reason."""
    adapter = Correct()
    setattr(adapter, declared, False)

    assert "the adapter does not declare it" == PROPERTIES[name].cannot(
        Subject(adapter, "cuda"), "rms_norm", "bfloat16"
    )
