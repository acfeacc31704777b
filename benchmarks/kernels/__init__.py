"""Our own kernels for designs without an installable package, and an empty kernel."""
