"""Section 4, modern networks in PyTorch. Read the files in this order:

engine, distributed, checkpoint, images, training; then vision/: resnet, classifiers, augment,
pretrained; then detection/, whose own page says in which order.
"""
