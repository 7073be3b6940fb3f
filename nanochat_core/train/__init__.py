"""Training: one loop for pretraining and fine-tuning, its checkpoints, and the supervisor of its processes."""
