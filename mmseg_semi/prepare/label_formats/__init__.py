"""Readers of what labeling tools write, one module a format."""
