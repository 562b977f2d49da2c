"""The defaults: six convolutions with batch normalisation, 1,470,055 parameters.

python -m fer_jax.main --config=configs/cnn.py
"""

from fer_jax.config import default_config

get_config = default_config
