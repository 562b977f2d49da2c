"""Measurements that are too slow to be tests. Each prints its figures, and on what they were made.

Each table stands beside the command that makes it.
"""
