"""Rotary embedding of q and k at a position for every token, in halves of a head or in neighbours.

``halves`` is the order of GPT-NeoX and Llama, ``neighbours`` that of GPT-J. Without positions cos and sin have a
row a token, as in models that compute the angles of a batch once for all layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from conformance.cases.case import Case
from conformance.operations import rotation
from conformance.operations.head_calls import HeadCalls, head_operation
from conformance.operations.head_mistakes import changed
from conformance.operations.head_sizes import Sizes
from conformance.operations.head_tensors import Heads, Positions, Table
from conformance.operations.operation import Scaling
from conformance.operations.rotation import ROTATED, rotated
from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract
from conformance.oracle.interval import Interval

CALLS = HeadCalls(
    "rope",
    (Heads("q"), Heads("k"), Positions("positions"), Table("cos"), Table("sin")),
    rotation.VALUES,
    (rotation.PAIRS,),
)


def formula(
    machine: Machine, contract: Contract, given: Mapping[str, torch.Tensor], case: Case
) -> dict[str, Interval]:
    """Return the intervals of q and k after their rotation. Row tensors have one token per row."""
    angles, pairs = rotation.angles_of(given), case.flag("pairs")
    heads = {name: given[name].reshape(len(given[name]), -1, Sizes.of(case).head_dim) for name in ROTATED}
    return {
        ROTATED[name]: rotated(machine, contract, Interval.exactly(x), angles, x.dtype, pairs)
        for name, x in heads.items()
    }


ROPE = head_operation(
    CALLS,
    formula=formula,
    rounds=rotation.ROUNDS,
    points=rotation.points,
    ordinary=rotation.ORDINARY,
    terms=(rotation.PAIRING, *rotation.TERMS),
    mistakes={"unknown pairs": changed("pairs", lambda _: "thirds")},
    copies=rotation.copies,
    indexed=dict.fromkeys(("cos", "sin"), "positions"),
    # a rotation is linear
    scaling=Scaling(dict.fromkeys(ROTATED, 1), dict.fromkeys(ROTATED.values(), 1)),
)
