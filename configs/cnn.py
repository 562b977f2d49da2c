"""The base config as it stands: a small VGG-like network."""

from configs.base import get_config as get_config
