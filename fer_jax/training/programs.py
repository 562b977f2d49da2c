"""Compiles training steps ahead of time, and calls them."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, jaxprs_in_params
from jaxtyping import Array, Float

from fer_jax.devices import (
    compile_outside_cache,
    compiler_options,
    on_mesh,
    replicated,
    return_freed_memory,
)
from fer_jax.training.ensemble import Members
from fer_jax.training.input import Input
from fer_jax.training.memory import check_program
from fer_jax.training.step import Step, TrainState

Losses = Float[Array, "*members steps"]


MOST_OPERATIONS = 80_000
"""JAX operations of the steps in one call, at most.

A GPU records all steps of a call into one CUDA graph. On an H100, 32 steps of ResNet-18 ran well,
which are 77,600 operations; 112 steps, 271,500 operations, did not end within 400 seconds.
"""


def steps_per_call(operations: int = 1) -> int:
    """Returns how many steps of some operations one call takes, unless fewer are left.

    On a GPU or TPU: 32, because each call takes the host some 100 microseconds, or for large steps
    a smaller power of two. Their number is fixed at compile time; with a dynamic trip count a GPU
    syncs with the host after every step.
    On a CPU: 1, because inside a loop XLA's weight gradients of convolutions are many times slower.
    """
    if jax.default_backend() == "cpu":
        return 1
    return min(32, 2 ** int(math.log2(max(1, MOST_OPERATIONS / operations))))


def count_operations(jaxpr: Jaxpr) -> int:
    """Returns how many operations a function has, with those of a scan once for each turn."""
    total = 0
    for equation in jaxpr.eqns:
        inner = sum(map(count_operations, jaxprs_in_params(equation.params)))
        total += (inner or 1) * equation.params.get("length", 1)
    return total


class Programs:
    """Takes training steps on an input's batches, with one compiled program for each step count.

    A run can stop for an interruption only between calls.
    """

    def __init__(
        self,
        step: Step,
        state: TrainState,
        source: Input,
        members: Members,
        *,
        ahead: int = 1,
        constants: Sequence[Any] = (),
        most: int | None = None,
        options: Mapping[str, str | bool] | None = None,
    ):
        """Compiles the programs that take `ahead` steps; others are compiled when needed.

        Args:
          step: one network's step.
          state: state of all members, with the shapes, types and placement of the programs' state.
          source: input that the batches come from.
          members: number and layout of the members.
          ahead: number of steps, in one call or several.
          constants: arrays that the step takes after the batch, the same for all members.
          most: largest number of steps in a call; default: `steps_per_call` of the step's size.
          options: compiler options; default: `compiler_options`.
        """
        self._step, self._source, self._members = step, source, members
        self._constants = tuple(constants)
        # Without values, because each call consumes its state.
        self._state = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
        )
        self._options = compiler_options() if options is None else options
        self._traced: dict[int, jax.stages.Traced] = {}
        self._compiled: dict[int, Callable] = {}
        everywhere = replicated(members.mesh)
        self._turns = [
            jax.make_array_from_callback((), everywhere, functools.partial(_turn, turn))
            for turn in range(members.turns)
        ]
        # Every process can read the losses of all members.
        self._join = jax.jit(
            lambda *turns: jnp.stack(turns, axis=1).reshape(members.count, -1),
            out_shardings=everywhere,
        )
        self._most = most or self._count_steps()
        while ahead:
            ahead %= self._fitting(ahead)[0]

    def advance(self, state: TrainState, most: int) -> tuple[TrainState, Losses, int]:
        """Takes one step or more; it consumes the state.

        Args:
          state: state of all members.
          most: largest number of steps to take.

        Returns:
          The next state, the losses of the steps, and their number.
        """
        count, program = self._fitting(most)
        arguments = self._source.next(count)
        losses = []
        for turn in self._turns:
            state, latest = program(turn, state, *arguments, self._constants)
            losses.append(latest)
        return state, losses[0] if self._members.count == 1 else self._join(*losses), count

    def _fitting(self, most: int) -> tuple[int, Callable]:
        """Returns a number of steps, at most `most`, and the program that takes them."""
        count = min(most, self._most)
        if count not in self._compiled:
            self._compiled[count] = self._compile(count)
        return count, self._compiled[count]

    def _count_steps(self) -> int:
        most = steps_per_call()
        if most == 1:
            return 1
        return steps_per_call(count_operations(self._trace(most).jaxpr.jaxpr) // most)

    def _compile(self, count: int) -> Callable:
        program = compile_outside_cache(self._trace(count).lower(), self._options)
        return_freed_memory()  # The compiler took hundreds of MiB.
        check_program(program, self._members.mesh)
        return program

    def _trace(self, count: int) -> jax.stages.Traced:
        if count in self._traced:
            return self._traced[count]
        arguments = (*self._source.abstract(count), self._constants)

        def take_steps(state: TrainState, *arguments: Any) -> tuple[TrainState, Losses]:
            *of_input, constants = arguments
            items, draw = self._source.trace(count, state.step, *of_input)

            def one_step(state: TrainState, item: Any) -> tuple[TrainState, Float[Array, ""]]:
                return self._step(state, draw(state.step, item), *constants)

            if count > 1:
                return jax.lax.scan(one_step, state, items)
            state, loss = one_step(state, jax.tree.map(lambda array: array[0], items))
            return state, loss[None]

        shared = (*self._source.shared, len(arguments))
        function = self._members.in_turn(take_steps, shared=shared)
        jitted = jax.jit(
            on_mesh(self._members.mesh, function),
            donate_argnums=1,
            out_shardings=self._members.state_sharding,
        )
        self._traced[count] = jitted.trace(self._turns[0], self._state, *arguments)
        return self._traced[count]


def _turn(turn: int, _: Any) -> np.ndarray:
    return np.asarray(turn, np.int32)
