"""estbench: where Estonian language models are made and measured."""

__version__ = "0.1.0"
