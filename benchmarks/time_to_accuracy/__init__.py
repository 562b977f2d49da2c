"""Seconds from the start of a command to an accuracy, beside PyTorch and Keras."""
