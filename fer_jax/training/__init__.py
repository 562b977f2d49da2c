"""What a training run is made of: mesh, optimiser, state and step, checkpoints."""
