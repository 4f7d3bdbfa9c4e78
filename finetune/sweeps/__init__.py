"""Sweeps: which settings are tried next, which trial is given up, and what all of them came to. Optuna is loaded late.

`study` draws and remembers, in SQLite; `results` and `plot` show.
"""
