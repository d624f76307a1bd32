"""Section 3, convolutional networks in NumPy. Read the files in this order:

im2col, naive, conv, conv_transpose, pooling, flatten, batchnorm, residual, models,
receptive_field, visualize.
"""
