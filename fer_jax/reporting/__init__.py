"""Metrics from predictions, and everything that shows them: files, figures, tables, TensorBoard."""

import sys

from fer_jax.reporting import summary_writer

# `clu.metric_writers` imports TensorFlow (1.4 GB, seconds of start-up) for one class. Whichever
# module bears this name when clu is first imported provides that class, so here it is ours, with
# TensorFlow installed or not: the same event files everywhere.
sys.modules.setdefault("clu.metric_writers.summary_writer", summary_writer)
