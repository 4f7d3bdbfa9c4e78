"""Experiment trackers: where runs are kept beside each other, with their settings, curves and files.

Each is an extra, imported when it is asked for. TensorFlow is not needed.
"""
