"""Accuracy: the published systems, and one option of a recipe at a time."""
