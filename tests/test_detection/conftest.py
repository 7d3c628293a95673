"""Fixtures of a small set of images."""

from scene_files import mmseg_scope, scenes, warnings_logged  # noqa: F401
