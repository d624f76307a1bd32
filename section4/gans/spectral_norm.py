"""Spectral normalisation: a linear layer that stretches no vector.

The largest singular value s of a matrix W is the most by which W can stretch a vector; with
W / s for W a linear layer stretches none, and so does a network of such layers and ReLUs: the
discriminator's score cannot rise faster than its input moves. Of a convolution W is its filters as
a matrix, and the bound holds up to a factor, as windows overlap: every pixel is in several of them.
s is found by power iteration,
u <- W v / |W v|, v <- W^T u / |W^T u|, which ends at the singular vectors of s = u^T W v. Weights
change little in a step of training, so one turn a step, from where the last one ended, is enough.

Source: Miyato et al., Spectral normalization for generative adversarial networks,
arXiv:1802.05957. Derivation: report.tex, eq:power-iteration, eq:spectral-norm-backward.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

Network = TypeVar("Network", bound=nn.Module)
FIRST_TURNS = 15


def power_iteration(
    w: torch.Tensor, v: torch.Tensor, turns: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Singular vectors u (rows,), v (columns,) of a matrix w (rows, columns), from a guess of v.

    The error shrinks by (s2 / s1)^2 a turn, for the two largest singular values s1 > s2.
    """
    for _ in range(turns):
        u = F.normalize(w @ v, dim=0)
        v = F.normalize(w.T @ u, dim=0)
    return u, v


class SpectralNorm(nn.Module):
    """W -> W / s, for `torch.nn.utils.parametrize`; filters (F, C, KH, KW) as (F, C*KH*KW).

    A convolution may still stretch, by at most the root of how many windows a pixel is in: 2 for
    windows of 4x4 at stride 2. In training each use takes one turn of power iteration. The slope
    goes through s = u^T W v as well, with u and v taken for constants.
    """

    u: torch.Tensor
    v: torch.Tensor

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        w = weight.detach().flatten(1)
        guess = torch.randn(w.shape[1], dtype=w.dtype, device=w.device)
        u, v = power_iteration(w, guess, FIRST_TURNS)
        self.register_buffer("u", u)
        self.register_buffer("v", v)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        device = weight.device.type
        autocast = torch.amp.is_autocast_available(device)
        # s needs float32's digits.
        with torch.autocast(device, enabled=False) if autocast else nullcontext():
            w = weight.flatten(1)
            if self.training:  # new tensors: an earlier forward pass may still need the old ones
                with torch.no_grad():
                    self.u, self.v = power_iteration(w, self.v)
            return weight / torch.dot(self.u, w @ self.v)


def spectrally_normalised(network: Network) -> Network:
    """The same network with every linear layer, convolution and embedding in it normalised."""
    for layer in list(network.modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding)):
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    return network
