"""The same runner, elsewhere: cells as jobs of a SLURM cluster (or of this machine) through submitit."""
