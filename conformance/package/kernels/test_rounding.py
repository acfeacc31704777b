"""``rounding="hf"`` follows Hugging Face's order on every path, by the suite's own judgement."""

import pytest

from conformance.adapters.hf_order import HfOrder, NativeHfOrder
from conformance.adapters.normkernels import NormKernels
from conformance.calls.call import Subject
from conformance.calls.verdict import BAD, Status
from conformance.package.calls.tensors import DEVICE
from conformance.runs.item import items
from conformance.runs.judge import judge_item

# fp8 values hide in half of the cases where a gated norm rounds
FEWER = {"rms_norm_gated_fp8": 8}


@pytest.mark.parametrize("adapter", [HfOrder, NativeHfOrder])
@pytest.mark.parametrize("prop", ["contract", "values"])
@pytest.mark.parametrize("operation", HfOrder.contracts)
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
    assert len(passed) >= FEWER.get(operation, 12)
