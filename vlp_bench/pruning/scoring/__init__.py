"""How scores are computed: remembered from step to step, checked, or a piece at a time."""
