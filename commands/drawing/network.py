"""A trained network that answers to drawings, and shows what it sees in them."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from commands.drawing.mnist import like_mnist
from section1.activations import ReLU
from section1.functions import softmax
from section1.network import Sequential
from section1.training import predict
from section3.experiments.filters_and_feature_maps import blocks, layers_of
from section3.visualize import layer_output, saliency
from utils.experiments.results import Result, to_plain

SHOWN = 2  # convolutions whose feature maps are shown, from the first on


class Network:
    """The network of a result of `mnist_cnn`; several threads may ask it at once."""

    def __init__(self, model: Sequential, result: Result):
        self.model, self.result = model, result
        self.lock = threading.Lock()

    def about(self) -> str:
        """Which network this is, what it learned from, and how well, in words."""
        info, counts = self.result.info, self.result.arrays["confusion"]  # of this very network
        right, tests = int(counts.trace()), int(counts.sum())
        data = "; ".join(self.result.data)
        sentence = (
            f"A CNN of {self.result.metrics['parameters']:,} parameters, trained in "
            f"{info['settings']['mode'].upper()} mode on {data}: {right:,} of {tests:,} test "
            f"images right ({right / tests:.2%})."
        )
        if any(used["provenance"] == "embedded stand-in" for used in info["data"].values()):
            sentence += (
                " Drawings here are made to look like MNIST, and these digits do not: expect more "
                "errors. Better: python main.py mnist_cnn --mode hybrid learns from MNIST itself."
            )
        return sentence

    def answer(self, drawing: np.ndarray) -> dict[str, Any]:
        """What the network makes of a drawing (H, W) in 0 ... 255, as JSON knows it.

        probabilities: of the ten digits.
        picture: (28, 28), the drawing as MNIST would have shown it, in 0 ... 255.
        saliency: (28, 28), the slope of the likeliest digit's score; 255 is the steepest.
        layers: for each of the first convolutions the number of its filters, the size of their
            maps after ReLU, the largest output, and the maps as tiles of one picture, where 255
            is that output and null a gap.

        Raises ValueError for a drawing without ink.
        """
        picture = like_mnist(drawing)
        arrays = self.result.arrays
        x = (picture[None, ..., None] / 255 - arrays["pixel_mean"]) / arrays["pixel_std"]
        x = x.astype(np.float32)  # (1, 28, 28, 1)
        with self.lock:  # a network in use changes: it remembers
            scores = predict(self.model, x, threads=1)
            slopes = saliency(self.model, x, scores.argmax(axis=1))
            maps = [
                layer_output(self.model, x, layer, threads=1)[0]
                for layer in layers_of(self.model, ReLU)[:SHOWN]
            ]
        return to_plain(
            {
                "probabilities": softmax(scores.astype(float))[0],
                "picture": picture.round(),
                "saliency": in_bytes(slopes[0]),
                "layers": [
                    {
                        "filters": one.shape[2],
                        "size": one.shape[:2],
                        "largest": one.max(),
                        "tiles": in_bytes(blocks(one.transpose(2, 0, 1))),
                    }
                    for one in maps
                ],
            }
        )


def in_bytes(values: np.ndarray) -> np.ndarray:
    """Values of at least 0, scaled so that the largest is 255; NaN stays."""
    return (255 * values / (np.nanmax(values) or 1)).round()
