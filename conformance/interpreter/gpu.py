"""Answers of one simulated GPU, for programs that query it while they are imported or launch a kernel.

Only queries that are errors without a GPU are answered: ``torch.cuda.is_available()`` and ``device_count()`` stay
truthful. The GPU has few multiprocessors, so that a kernel that divides its rows among them loops over several.
"""

from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from conformance.adapter import Unsupported

MULTIPROCESSORS = 4
CAPABILITY = (9, 0)
SHARED_MEMORY = 232448  # bytes that a block may use
NAME = "Triton's interpreter"


class Missing(Unsupported, AttributeError):
    """Raised for an attribute that Triton's interpreter, or a simulated GPU, does not have."""


class Answers:
    """An object that has some attributes of another one; ``what`` names that one in errors."""

    def __init__(self, what: str, **known: Any) -> None:
        self._what = what
        vars(self).update(known)

    def __getattr__(self, name: str) -> NoReturn:
        """Raise ``Missing``: the object does not have the attribute."""
        raise Missing(f"Triton's interpreter cannot run what needs {name!r} of {vars(self)['_what']}")


PROPERTIES = Answers(
    "a GPU's properties",
    name=NAME,
    major=CAPABILITY[0],
    minor=CAPABILITY[1],
    multi_processor_count=MULTIPROCESSORS,
    total_memory=8 << 30,
    warp_size=32,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=SHARED_MEMORY,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 << 20,
    gcnArchName="",
)
# the same properties under the names of CUDA's driver
OF_THE_DRIVER = {
    "max_shared_mem": SHARED_MEMORY,
    "max_num_regs": 65536,
    "multiprocessor_count": MULTIPROCESSORS,
    "warpSize": 32,
    "sm_clock_rate": 1_980_000,
    "mem_clock_rate": 3_201_000,
    "mem_bus_width": 6144,
}
STREAM = SimpleNamespace(
    cuda_stream=0, stream_id=0, device=torch.device("cpu"), synchronize=lambda: None, query=lambda: True
)
TARGET = GPUTarget("cuda", 10 * CAPABILITY[0] + CAPABILITY[1], 32)
DRIVER = Answers(
    "a GPU's driver",
    get_current_device=lambda: 0,
    set_current_device=lambda _device: None,
    get_current_stream=lambda _device=0: 0,
    get_device_capability=lambda _device=0: CAPABILITY,
    get_current_target=lambda: TARGET,
    get_active_torch_device=lambda: torch.device("cpu"),
    utils=Answers("a GPU's driver", get_device_properties=lambda _device=0: dict(OF_THE_DRIVER)),
)


class Anywhere(torch.cuda.device):
    """``torch.cuda.device`` of a tensor that is on no GPU: nothing is selected."""

    def __init__(self, device: Any) -> None:
        self.idx = self.prev_idx = -1

    def __enter__(self) -> None:
        """Select nothing."""

    def __exit__(self, *_error: object) -> None:
        """Select nothing back."""


def install() -> None:
    """Install the answers to PyTorch's and Triton's driver queries."""
    answers: dict[str, Any] = {
        "device": Anywhere,
        "current_device": lambda: 0,
        "set_device": lambda _device: None,
        "get_device_properties": lambda _device=None: PROPERTIES,
        "get_device_capability": lambda _device=None: CAPABILITY,
        "get_device_name": lambda _device=None: NAME,
        "current_stream": lambda _device=None: STREAM,
        "default_stream": lambda _device=None: STREAM,
        "synchronize": lambda _device=None: None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    driver.set_active(DRIVER)
