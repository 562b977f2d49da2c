"""The parts of a training run: step, optimiser, input, programs, ensemble, checkpoints, workdir."""
