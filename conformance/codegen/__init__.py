"""What the kernels of ``normkernels`` become on GPUs that are not there: compiled ahead of time, on the CPU.

``targets`` are the GPUs, ``variants`` and ``workloads`` the calls; ``launches`` makes a call and notes what it
launches, ``compile`` does so for one target, in a process of its own, ``facts`` reads what came out, ``checks``
judges it, and ``collect`` does all of this for every target at once.
"""
