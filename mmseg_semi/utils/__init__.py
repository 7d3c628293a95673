"""Helpers around the package that are no part of a model: reports about the environment."""
