"""One file per operation: checks, native form, paths and kernel arguments of its calls."""
