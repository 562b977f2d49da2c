"""The web page of `fer_jax demo`: it sends pictures to its server, which answers with faces."""
