"""RoIAlign: the features of a box, whatever its size, as a small grid of fixed size.

The box is cut into bins; each bin is the mean of a few points in it, and the value at a point is
interpolated from the four places around it. Interpolation along x does not depend on y, nor does
the mean over points: so RoIAlign is two matrix products, one for the rows of the maps and one for
their columns, and its gradient is theirs.

Source: He et al., Mask R-CNN, arXiv:1703.06870. Derivation: report.tex, eq:roi-align.
"""

from __future__ import annotations

import torch


def interpolation(
    start: torch.Tensor, end: torch.Tensor, bins: int, points: int, places: int
) -> torch.Tensor:
    """The share of each place of an axis in each bin of an interval: (...,) -> (..., bins, places).

    start, end: of the intervals, in units of places, place k at coordinate k. points: in each bin.
    Points beyond the axis by more than one place count as 0, nearer ones as the place at the edge.
    """
    steps = (torch.arange(bins * points).to(start) + 0.5) / (bins * points)
    at = start[..., None] + (end - start)[..., None] * steps  # (..., bins * points)
    inside = (at >= -1) & (at <= places)
    distance = at.clamp(0, places - 1)[..., None] - torch.arange(places).to(start)
    share = (1 - distance.abs()).clamp(min=0) * inside[..., None]
    return share.unflatten(-2, (bins, points)).mean(-2)


def roi_align(
    maps: torch.Tensor,
    boxes: torch.Tensor,
    size: int,
    scale: float = 1.0,
    points: int = 2,
    aligned: bool = True,
) -> torch.Tensor:
    """Maps (N, C, H, W) and boxes of each image (N, R, 4) -> (N, R, C, size, size).

    scale: places of a map per pixel, such as 1 / 8. points: in each bin, along each axis.
    aligned: place k covers the interval from k to k + 1, as pixels do; `False` computes as the
    first implementations did, which are half a place off and make boxes at least one place large.
    """
    boxes = boxes * scale
    if aligned:
        low, high = boxes[..., :2] - 0.5, boxes[..., 2:] - 0.5
    else:
        low = boxes[..., :2]
        high = low + (boxes[..., 2:] - low).clamp(min=1)
    (x1, y1), (x2, y2) = low.unbind(-1), high.unbind(-1)
    rows = interpolation(y1, y2, size, points, maps.shape[2]).to(maps.dtype)  # (N, R, size, H)
    columns = interpolation(x1, x2, size, points, maps.shape[3]).to(maps.dtype)  # (N, R, size, W)
    maps = maps.permute(0, 2, 3, 1)  # (N, H, W, C), as they lie in memory where channels are last
    # The rows of all boxes of an image are one product: (N, R size, H) (N, H, W C).
    pooled = rows.flatten(1, 2) @ maps.flatten(2)
    pooled = pooled.unflatten(2, maps.shape[2:]).unflatten(1, rows.shape[1:3])
    pooled = columns[:, :, None] @ pooled  # (N, R, 1, size, W) (N, R, size, W, C)
    return pooled.permute(0, 1, 4, 2, 3)
