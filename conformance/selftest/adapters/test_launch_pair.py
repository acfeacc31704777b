"""The pair of kernels that this project began with fails only batch invariance, and only on a GPU."""

from conformance.calls.call import Subject
from conformance.calls.verdict import BAD
from conformance.runs.host import choose_device, faithful_interpreter
from conformance.runs.item import items
from conformance.runs.judge import judge_item
from conformance.selftest.launch_pair import LaunchPair

PROPERTIES = ("values", "determinism", "batch_invariance", "position_invariance")


def test_only_batch_invariance_fails_and_only_on_a_gpu() -> None:
    """In the interpreter a sum does not depend on its tile: no property fails, and invariance is not judged."""
    subject = Subject(LaunchPair(), choose_device())
    # where kernels are compiled there is no interpreter to set up
    assert subject.device == "cuda" or not faithful_interpreter()
    passed: set[str] = set()
    failed: set[str] = set()
    for item in items(subject, properties=PROPERTIES):
        # the difference is in the last bits of float32; a GPU judges the other dtypes in its own run
        for verdict in judge_item(item, subject) if item.dtype == "float32" else ():
            (failed if verdict.status in BAD else passed).add(verdict.property)

    assert failed == ({"batch_invariance"} if subject.device == "cuda" else set())
    assert {"values", "determinism", "memory", "path"} <= passed
