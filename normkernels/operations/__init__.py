"""One file an operation: what a call of it is, its native form, its paths and its kernel's arguments."""
