"""The sidecar: gates, datasets, the training job, rollouts, evaluation and the verdict."""
