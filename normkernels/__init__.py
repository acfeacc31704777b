"""Fused normalisation kernels for LLM inference, each with a native form and a reason for its path."""

from normkernels import api, modules
from normkernels.api import *  # noqa: F403  (its __all__ are the operations)
from normkernels.dispatch import Decision, Path, Reason, Rejection
from normkernels.errors import InvalidCall, PathUnavailable
from normkernels.modules import *  # noqa: F403  (its __all__ are the modules)

__all__ = ["Decision", "InvalidCall", "Path", "PathUnavailable", "Reason", "Rejection"]
__all__ += api.__all__
__all__ += modules.__all__
