"""Section 3, convolutional networks in NumPy. Read the files in this order:

im2col, naive, conv, conv_transpose, pooling, fused, flatten, batchnorm, residual, models,
augment, receptive_field, visualize.
"""
