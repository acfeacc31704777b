"""The package's public names, and the promise that importing it needs torch alone."""

from __future__ import annotations

from pathlib import Path

import normkernels
from conformance.selftest.processes import ran_alone

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
