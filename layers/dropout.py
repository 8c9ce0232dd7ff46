"""To come."""

__all__ = []
