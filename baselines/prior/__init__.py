"""The per-voxel prior: what a model scores that has only seen the labels of its training."""
