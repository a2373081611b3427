"""Fixtures of the consumer's tests."""

from tests.support.recorder import recorder

__all__ = ["recorder"]
