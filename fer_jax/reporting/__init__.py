"""Metrics of predictions, and their files, figures, pages, tables and TensorBoard events."""
