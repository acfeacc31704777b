"""The kernels of ``normkernels`` compiled ahead of time, on the CPU, for GPUs that need not be present.

``targets`` are the GPUs, ``variants`` and ``workloads`` the calls; ``launches`` makes a call and records its
launches, ``compile`` does so for one target, in a process of its own, ``facts`` reads the compiled code,
``checks`` judges it, and ``collect`` does all of this for every target at once.
"""
