"""Several processes that train as one: how they meet, agree, and end together. Imports no JAX."""
