"""Generative adversarial networks. Read the files in this order:

mixtures, numpy_gan, models, losses, spectral_norm, adversarial, metrics.
"""
