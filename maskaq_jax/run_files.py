"""What the files and folders are called that a run leaves in its directory."""

# The run's settings.
CONFIG = "config.json"
# The checksum of the weights it was started with.
WEIGHTS = "weights.json"
# Loss terms, and all else that is measured on the way.
METRICS = "metrics.jsonl"
# The time each phase has taken so far.
SECONDS = "seconds.json"
# What the run tells at its end.
RESULTS = "results.json"
# The state of training, kept by Orbax.
CHECKPOINTS = "checkpoints"
# The synthetic images, kept by `samples`.
SAMPLES = "samples"
# A picture of some of them.
SAMPLE_SHEET = "samples.png"
# Held while the run is at work.
LOCK = "lock"
