"""Foundations: parameters, layers, losses and the training loop, in NumPy.

Read in this order: parameter, layer, linear, activations, network, mlp, losses,
initializers, sgd, parallel, training.
"""
