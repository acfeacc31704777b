"""Properties that the suite judges: a file for each that makes calls of its own; ``call.py`` for all passive ones.

Reports follow the order of the table.
"""

from conformance.properties.batch_invariance import BATCH_INVARIANCE
from conformance.properties.bias import BIAS
from conformance.properties.call import LAYOUT, SPECIALS, VALUES
from conformance.properties.chain import CHAIN
from conformance.properties.claim import CLAIM
from conformance.properties.compile import COMPILE
from conformance.properties.contract import CONTRACT
from conformance.properties.determinism import DETERMINISM
from conformance.properties.device import DEVICE
from conformance.properties.empty import EMPTY
from conformance.properties.errors import ERRORS
from conformance.properties.given_outputs import GIVEN_OUTPUTS
from conformance.properties.gradient import GRADIENT
from conformance.properties.graph import GRAPH
from conformance.properties.in_place import IN_PLACE
from conformance.properties.kept_choices import KEPT_CHOICES
from conformance.properties.kept_results import KEPT_RESULTS
from conformance.properties.large_call import LARGE_CALL
from conformance.properties.large_index import LARGE_INDEX
from conformance.properties.padding_invariance import PADDING_INVARIANCE
from conformance.properties.parity import PARITY
from conformance.properties.position_invariance import POSITION_INVARIANCE
from conformance.properties.property import Property
from conformance.properties.row_independence import ROW_INDEPENDENCE
from conformance.properties.scale import SCALE
from conformance.properties.sensitivity import SENSITIVITY
from conformance.properties.state import STATE
from conformance.properties.stream import STREAM
from conformance.properties.threads import THREADS
from conformance.properties.variants import VARIANTS

PROPERTIES: dict[str, Property] = {
    item.name: item
    for item in (
        VALUES,
        LAYOUT,
        SPECIALS,
        CONTRACT,
        PARITY,
        DETERMINISM,
        BATCH_INVARIANCE,
        POSITION_INVARIANCE,
        PADDING_INVARIANCE,
        ROW_INDEPENDENCE,
        IN_PLACE,
        GIVEN_OUTPUTS,
        SCALE,
        BIAS,
        CHAIN,
        LARGE_INDEX,
        LARGE_CALL,
        STATE,
        KEPT_RESULTS,
        KEPT_CHOICES,
        THREADS,
        VARIANTS,
        GRADIENT,
        COMPILE,
        GRAPH,
        STREAM,
        DEVICE,
        CLAIM,
        EMPTY,
        ERRORS,
        SENSITIVITY,
    )
}

# judged on the same calls as values, layout and specials
PASSIVE: dict[str, str] = {
    "metadata": "outputs have the documented number, dtype and shape, and strides as declared",
    "memory": "nothing outside the outputs is written, and nothing outside the arguments is read",
    "written": "every element of every output is written",
    "copied": "what an output takes over unchanged has the very bits of the argument",
    "state_left_behind": "a call leaves the global state of torch and of its process as it was",
    "path": "what ran is the path that the adapter names, or the kernel that it declares, without hidden copies",
}

PROMISES: dict[str, str] = {**{name: item.promise for name, item in PROPERTIES.items()}, **PASSIVE}

__all__ = ["PASSIVE", "PROMISES", "PROPERTIES", "Property"]
