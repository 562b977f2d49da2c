"""Scaling of one network: measurements here, and a model for many chips."""
