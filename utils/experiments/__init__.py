"""How an experiment is found, run, saved and drawn."""
