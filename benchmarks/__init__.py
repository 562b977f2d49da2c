"""Measurements that are too slow to be tests. Each prints its figures and the hardware behind them.

Each table stands beside the command that makes it.
"""
