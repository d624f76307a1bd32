"""Optimization: why networks train, and the proof that every gradient is right.

Read in this order: gradient_check, faults, optimizers, muon, schedules, batchnorm, layernorm,
dropout, models. Checkpoints are in section1.checkpoint, because section 1's `fit` writes them.
"""
