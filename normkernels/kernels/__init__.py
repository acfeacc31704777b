"""Launch plans, and one file per kernel with its launcher. Only the kernel files import triton."""
