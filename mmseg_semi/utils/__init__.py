"""Helpers of all parts above: configs, checkpoints, progress, reports of the environment."""
