"""Small models and batches for tests of hooks."""

from tests.test_models.conftest import batch, build  # noqa: F401
