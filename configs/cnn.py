"""The base config as it stands: six convolutions with batch normalisation, 1,470,055 parameters.

python -m fer_jax.main --config=configs/cnn.py
"""

from configs.base import get_config as get_config
