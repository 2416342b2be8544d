"""GaussianFlowOcc: Gaussians from learned queries, rendered for training and voxelised for evaluation."""
