"""Many cells on many processors: a scheduler's job array through submitit, or the GPUs and cores of one machine."""
