"""An empty kernel, and kernels that only move memory."""
