"""Fixtures of a small set of images."""

from scene_files import batches_of, mmseg_scope, scenes, warnings_logged  # noqa: F401
