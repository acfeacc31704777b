"""The package's public names, and the promise that importing it needs torch alone."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from types import UnionType

import torch

import normkernels
from conformance.package.calls import mrope, rms_norm, rms_norm_gated
from conformance.package.calls.tensors import Arguments
from conformance.selftest.every import every
from conformance.selftest.processes import ran_alone
from normkernels.operations.operation import OPERATIONS

IMPORT = """
import os, sys

class Environment(dict):
    def __getitem__(self, key):
        assert not key.startswith(("NORMKERNELS", "TRITON")), key
        return super().__getitem__(key)
    get = lambda self, key, default=None: self[key] if key in self else default

import torch
assert not {"triton", "normkernels"} & set(sys.modules)
sys.modules["triton"] = None
os.environ = Environment(os.environ, NORMKERNELS_PATH="nonsense", TRITON_INTERPRET="1")
import normkernels
assert not torch.cuda.is_initialized()
names = {}
exec("from normkernels import *", names)
print(sorted(set(names) - {"__builtins__"}))
"""

# The arguments of each function, with their defaults.
SIGNATURES = {
    "rms_norm": "x, weight, *, residual=None, weight_offset=0.0, eps, path=None, rounding='fp32', "
    "out=None, residual_out=None",
    "gemma_rms_norm": "x, weight, *, residual=None, eps, path=None, rounding='fp32', out=None, residual_out=None",
    "rms_norm_gated": "x, gate, weight, *, eps, group_size=None, norm_before_gate=True, activation='silu', "
    "path=None, rounding='fp32', out=None",
    "rms_norm_fp8": "x, weight, *, eps, residual=None, weight_offset=0.0, quant_group=128, scale_layout='row', "
    "fp8_dtype, also_unquantised=False, path=None, rounding='fp32', out=None, residual_out=None",
    "rms_norm_gated_fp8": "x, gate, weight, *, eps, group_size=None, norm_before_gate=True, activation='silu', "
    "quant_group=128, scale_layout='row', fp8_dtype, also_unquantised=False, path=None, rounding='fp32', out=None",
    "mrope": "q, k, positions, cos, sin, *, sections, head_dim=None, interleaved=True, path=None",
    "mrope_": "q, k, positions, cos, sin, *, sections, head_dim=None, interleaved=True, path=None",
    "apply_rotary_pos_emb": "q, k, cos, sin, unsqueeze_dim=1",
}

# A call for each form of results that an annotation allows.
FORMS: dict[str, list[Arguments]] = {
    "rms_norm": [rms_norm.call(), rms_norm.added()],
    "gemma_rms_norm": [rms_norm.call(), rms_norm.added()],
    "rms_norm_gated": [rms_norm_gated.call()],
    "mrope": [mrope.call()],
    "mrope_": [mrope.call()],
}


@every("name", SIGNATURES)
def test_signatures_are_pinned(name: str) -> None:
    """A name, a place or a default of an argument changes only on purpose; each has an annotation."""
    signature = inspect.signature(getattr(normkernels, name))
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]

    assert inspect.Signature.empty not in [each.annotation for each in signature.parameters.values()]
    assert f"({SIGNATURES[name]})" == str(inspect.Signature(bare))


def test_every_operation_has_its_signature_pinned() -> None:
    """No operation is left out above."""
    assert OPERATIONS.keys() | {"apply_rotary_pos_emb"} == SIGNATURES.keys()


def form(results: torch.Tensor | tuple[torch.Tensor, ...]) -> object:
    """Return the annotation of one result, or of this many."""
    pair = tuple[torch.Tensor, torch.Tensor]
    return {1: torch.Tensor, 2: pair}[len(results) if isinstance(results, tuple) else 1]


@every("name", FORMS)
def test_annotations_are_what_calls_return(name: str) -> None:
    """Each form of results in an annotation is returned, and no other."""
    function = getattr(normkernels, name)
    annotated = typing.get_type_hints(function)["return"]
    allowed = set(typing.get_args(annotated)) if isinstance(annotated, UnionType) else {annotated}

    assert allowed == {form(function(**arguments)) for arguments in FORMS[name]}


def test_public_names_are_pinned() -> None:
    """A name appears or disappears only on purpose."""
    assert [
        "Decision",
        "GemmaRMSNorm",
        "InvalidCall",
        "Path",
        "PathUnavailable",
        "RMSNorm",
        "RMSNormGated",
        "Reason",
        "Rejection",
        "apply_rotary_pos_emb",
        "explain",
        "from_module",
        "gemma_rms_norm",
        "mrope",
        "mrope_",
        "rms_norm",
        "rms_norm_fp8",
        "rms_norm_gated",
        "rms_norm_gated_fp8",
        "swap",
    ] == sorted(normkernels.__all__)


def test_every_public_name_is_documented() -> None:
    """Each public name exists and has a docstring."""
    for name in normkernels.__all__:
        assert getattr(normkernels, name).__doc__


def test_importing_needs_no_triton_no_gpu_and_no_environment() -> None:
    """The names exist without Triton, without reading our variables, and without starting a GPU."""
    done = ran_alone(IMPORT)

    assert done.returncode == 0, done.stderr
    assert str(sorted(normkernels.__all__)) == done.stdout.strip()


def test_the_package_is_typed() -> None:
    """Type checkers of the package's users see its annotations."""
    assert (Path(normkernels.__file__).parent / "py.typed").is_file()
