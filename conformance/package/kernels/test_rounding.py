"""``rounding="hf"`` follows Hugging Face's order on every path, by the suite's own judgement."""

from typing import Any, ClassVar

import pytest
import torch

import normkernels
from conformance.adapters.normkernels import NormKernels
from conformance.calls.call import Subject
from conformance.calls.verdict import BAD, Status
from conformance.oracle.contract import NAMED, Contract
from conformance.package.calls.tensors import DEVICE
from conformance.runs.item import items
from conformance.runs.judge import judge_item


class HuggingFaceOrder(NormKernels):
    """The package with ``rounding="hf"``; with an offset it rounds once."""

    name = "normkernels-hf"
    contracts: ClassVar = {
        "rms_norm": Contract(NAMED["hf"] | {"sum"}, "tile"),
        "gemma_rms_norm": Contract(frozenset({"sum"}), "tile"),
        "rms_norm_gated": Contract(NAMED["hf"], "tile"),
    }
    # with an offset it is the contract of gemma_rms_norm
    takes: ClassVar = {"rms_norm": {"offset": "zero"}, "gemma_rms_norm": {}, "rms_norm_gated": {}}

    def rms_norm(self, *tensors: torch.Tensor, **flags: Any) -> Any:  # type: ignore[override]
        """Call the operation with the other rounding; an offset allows only the default."""
        return normkernels.rms_norm(*tensors, **flags, rounding="hf", path=self.forced)

    def gemma_rms_norm(self, *tensors: torch.Tensor, **flags: Any) -> Any:
        """Call the operation with the rounding; for Gemma's norm both are the same."""
        return normkernels.gemma_rms_norm(*tensors, **flags, rounding="hf", path=self.forced)

    def rms_norm_gated(self, *tensors: torch.Tensor, **flags: Any) -> torch.Tensor:
        """Call the operation with the other rounding."""
        return normkernels.rms_norm_gated(*tensors, **flags, rounding="hf", path=self.forced)


class HuggingFaceOrderNative(HuggingFaceOrder):
    """The same order in plain PyTorch."""

    name = "native-hf"
    forced = "native"
    batch_invariant = False


@pytest.mark.parametrize("adapter", [HuggingFaceOrder, HuggingFaceOrderNative])
@pytest.mark.parametrize("prop", ["contract", "values"])
@pytest.mark.parametrize("operation", HuggingFaceOrder.contracts)
def test_the_outputs_follow_the_contract_hf(operation: str, prop: str, adapter: type[NormKernels]) -> None:
    """Every case of the quick profile satisfies contract ``hf``, and the cases distinguish it from others."""
    subject = Subject(adapter(), DEVICE)
    # float32 shows no rounding point; float16 and bfloat16 show the same ones
    judged = [
        item for item in items(subject, operations=(operation,), properties=(prop,)) if item.dtype == "bfloat16"
    ]
    verdicts = [verdict for item in judged for verdict in judge_item(item, subject)]
    passed = [verdict for verdict in verdicts if verdict.status is Status.PASSED]

    assert not [str(v) for v in verdicts if v.status in BAD]
    assert len(passed) >= 12
