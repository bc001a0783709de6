"""Scores, schedules and sweeps as choices of `pruner/GROUP=`: Hydra reads this namespace at every start."""

from vlp_bench.pruning import choices

choices.register()
