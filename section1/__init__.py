"""Foundations: parameters, layers, losses and the training loop, in NumPy.

Read in this order: parameter, layer, linear, functions, activations, network, initializers,
mlp, losses, sgd, parallel, row_parallel, memory, checkpoint, training.
"""
