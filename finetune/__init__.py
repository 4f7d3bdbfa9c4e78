"""Finetune: fine-tune image classifiers from the command line, on TensorFlow 2."""

__version__ = "0.1.0"
