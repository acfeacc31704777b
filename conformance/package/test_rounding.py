"""``rounding="hf"`` follows Hugging Face's order on every path, by the suite's own judgement."""

from typing import ClassVar

import pytest
import torch

import normkernels
from conformance.adapters.normkernels import NormKernels
from conformance.item import items
from conformance.judging import judge_item
from conformance.oracle.contract import NAMED, Contract
from conformance.package.gated_calls import DEVICE
from conformance.verdict import Status, Subject


class HuggingFaceOrder(NormKernels):
    """The package, asked to round where Hugging Face rounds."""

    name = "normkernels-hf"
    contracts: ClassVar = {"rms_norm_gated": Contract(NAMED["hf"], "tile")}

    def rms_norm_gated(self, *tensors: torch.Tensor, **flags: object) -> torch.Tensor:  # type: ignore[override]
        """Call the operation in the other rounding."""
        return normkernels.rms_norm_gated(*tensors, **flags, rounding="hf", path=self.forced)  # type: ignore[arg-type]


class HuggingFaceOrderNative(HuggingFaceOrder):
    """The same in plain PyTorch."""

    name = "native-hf"
    forced = "native"
    batch_invariant = False


@pytest.mark.parametrize("adapter", [HuggingFaceOrder, HuggingFaceOrderNative])
@pytest.mark.parametrize("prop", ["contract", "values"])
def test_the_outputs_follow_the_contract_hf(adapter: type[NormKernels], prop: str) -> None:
    """Every case of the quick profile lies in contract ``hf``, and the cases can tell it from the others."""
    subject = Subject(adapter(), DEVICE)
    # float32 shows no rounding point; float16 and bfloat16 show the same ones
    judged = [item for item in items(subject, properties=(prop,)) if item.dtype == "bfloat16"]
    verdicts = [verdict for item in judged for verdict in judge_item(item, subject)]

    assert not [str(v) for v in verdicts if v.status is not Status.PASSED]
    assert len(verdicts) >= 40
