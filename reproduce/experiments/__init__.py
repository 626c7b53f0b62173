"""The run folder, its identity and files, what schedules runs, Weights & Biases, and sweep files."""
