"""One call of an implementation: memory, arguments, claims, the child process, the recorded effects."""
