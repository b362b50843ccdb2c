"""Fixtures of the training tests."""

from support.training_fixtures import data, model, one_thread, six_photos

__all__ = ["data", "model", "one_thread", "six_photos"]
