"""Experiments: presets, training, evaluation and the commands a user runs.

This room may use all others and is used by none. `python -m experiments.combine` is the main job;
`.world` writes the demo datasets, `.extract` fills the feature store, `.report` renders finished runs,
`.train_demo_encoders` makes the four encoders that ship with the toolkit.
"""
