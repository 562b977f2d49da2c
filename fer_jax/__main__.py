"""Makes `python -m fer_jax` the same as the command `fer_jax`."""

from fer_jax.cli import main

if __name__ == "__main__":
    main()
