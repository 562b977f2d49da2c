"""The layers' arithmetic: the same numbers as flax and lax, faster."""
