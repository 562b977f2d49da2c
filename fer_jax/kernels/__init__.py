"""Faster operations of flax and lax, with the same results."""
