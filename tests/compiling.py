"""Flags for programs that the compilation cache keeps, unlike those with the users' options."""

import os

XLAS_OWN = f"{os.environ['XLA_FLAGS']} --xla_cpu_experimental_onednn_custom_call=false"
"""A value of `XLA_FLAGS` with which `fer_jax.devices.compiler_options` has none."""
