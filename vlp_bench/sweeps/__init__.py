"""Many runs: expanded, computed in fresh processes or by SLURM, looked at."""
