"""Section 4, modern networks in PyTorch. Read the files in this order:

engine, distributed, checkpoint, images, training; then vision/: resnet, classifiers, augment,
pretrained; then detection/, gans/ and transformers/, each in the order that its own page gives. Of
the last two one half is in NumPy.
"""
