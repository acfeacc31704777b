"""The CUDA driver's function that starts a kernel, as ctypes has it: tests put one of their own in its place."""

import ctypes

# a function, a grid and a block of three sizes each, shared memory, a stream, parameters, and what nobody gives
LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    *[ctypes.c_uint] * 7,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)
