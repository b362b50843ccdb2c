"""Fixtures of the evaluation tests."""

from support.torch_threads import one_thread
from support.training_fixtures import data, model, six_photos

__all__ = ["data", "model", "one_thread", "six_photos"]
