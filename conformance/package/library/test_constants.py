"""Constants in a graph, on which a tracer computes a call itself, and the op that raises for a refused call."""

from __future__ import annotations

import logging

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import normkernels
from conformance.package.calls.operations import run
from conformance.package.calls.tensors import Arguments, values
from conformance.package.library.calls import BACKENDS
from conformance.selftest.every import every


def on_a_constant(x: torch.Tensor, flags: Arguments) -> torch.Tensor:
    """Return x plus the norm of one element that is written in the function."""
    (y,) = run("rms_norm", {"x": torch.tensor([2.0]), "weight": None, **flags})
    return x + y


@every("path", ["rows", "native"])
@every("backend", BACKENDS)
def test_a_call_on_a_constant_is_computed_while_it_is_traced(backend: str, path: str) -> None:
    """A tracer computes on constants of one element, on the CPU: natively, because it cannot run kernels."""
    torch._dynamo.reset()
    x, flags = values("x", 3).cpu(), {"eps": 0.5, "weight_offset": 3.0, "path": path}
    natively = flags | {"path": "native"}
    traced = torch.compile(on_a_constant, fullgraph=True, backend=backend)

    assert torch.equal(on_a_constant(x, natively), traced(x, flags))


@every("backend", BACKENDS)
def test_a_call_without_meaning_on_a_constant_raises_while_it_is_traced(backend: str) -> None:
    """The message is that of the eager call."""
    torch._dynamo.reset()
    traced = torch.compile(on_a_constant, fullgraph=True, backend=backend)

    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match=r"InvalidCall\(.rms_norm: eps=True, must be"):
        traced(values("x", 3).cpu(), {"eps": True})


def test_the_op_of_a_refusal_raises_where_it_runs() -> None:
    """A run of the graph of a refused call, which has no result, gives the message."""
    with pytest.raises(normkernels.InvalidCall, match=r"^why$"):
        torch.ops.normkernels.refuse(values("x", 3), "why")


def test_a_refusal_is_no_failure_of_the_tracer(caplog: pytest.LogCaptureFixture) -> None:
    """The exception says all: torch logs none of the tracebacks that it logs of an op without a fake."""
    logger = logging.getLogger(FakeTensorMode.__module__)
    logger.addHandler(caplog.handler)
    try:
        with FakeTensorMode(), pytest.raises(normkernels.InvalidCall, match=r"^why$"):
            torch.ops.normkernels.refuse(torch.empty(3), "why")
    finally:
        logger.removeHandler(caplog.handler)

    assert [] == caplog.records
