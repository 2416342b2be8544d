"""Published metrics as counts that add up: over samples, over processes, over anything. No GPU needed."""
