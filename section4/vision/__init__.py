"""Classifiers of images: residual networks, augmentation, transfer. See `section4`."""
