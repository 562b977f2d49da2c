"""Measurements that are too slow to be tests. Each prints its figures, and says on what."""
