"""Soaks: right implementations of every operation in many forms, of which none may ever fail."""
