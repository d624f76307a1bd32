"""One question a file; see `utils.experiments.registry`."""
