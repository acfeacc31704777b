"""The known implementations, one file each; imported only when asked for by name."""
