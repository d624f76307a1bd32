"""Batch normalisation of images: a channel is one feature, wherever in the image it is."""

from __future__ import annotations

import numpy as np

from section2.batchnorm import BatchNorm1D


class BatchNorm2D(BatchNorm1D):
    """y = gamma x^ + beta, channel by channel: N*H*W numbers have one mean and one variance.

    A filter is the same at every place of an image, so its outputs are, too: normalised
    pixel by pixel they would lose where in the image something is. The arithmetic and the
    arguments are those of `BatchNorm1D`, for which an image is H*W rows.

    Shapes: x (N, H, W, C), gamma and beta (C,), y (N, H, W, C).

    Raises ValueError for an x that is no stack of images with that number of channels.
    Source: Ioffe, Szegedy, Batch normalization, arXiv:1502.03167, section 3.2.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        if x.ndim != 4:
            features = len(self.gamma.value)
            raise ValueError(
                f"BatchNorm2D({features}) expects images (N, H, W, {features}), got shape {x.shape}"
            )
        return super().forward(x)
