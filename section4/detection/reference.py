"""torchvision's Faster R-CNN on the same backbone: what ours is measured against.

The same shapes of anchors, numbers of proposals, overlaps and layers as in `faster_rcnn`, in the
code that the field uses. What is left to differ is how each was written, and two conventions: here
place k of a map lies at pixel 8 k, not 8 k + 4, and the corners of anchors are whole pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from section4.compat import COMPILED, torchvision
from section4.detection import boxes, faster_rcnn, roi_align
from section4.detection.detector import AT_MOST, OVERLAP, Found, backbone
from section4.detection.faster_rcnn import POOLED, RATIOS, SIZES

parts = torchvision.models.detection


class Torchvision(nn.Module):
    """A detector (see `detector`) of `classes` kinds of things."""

    def __init__(self, classes: int, width: int = 32):
        super().__init__()
        body, channels, hidden = backbone(width), 4 * width, 8 * width
        body.out_channels = channels  # type: ignore[assignment]
        low, high = faster_rcnn.RPN_OVERLAPS
        before, count = faster_rcnn.BEFORE_NMS, faster_rcnn.PROPOSALS
        self.model = parts.FasterRCNN(
            body,
            rpn_anchor_generator=parts.anchor_utils.AnchorGenerator((SIZES,), (RATIOS,)),
            box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], POOLED, 2),
            box_head=parts.faster_rcnn.TwoMLPHead(channels * POOLED**2, hidden),
            box_predictor=parts.faster_rcnn.FastRCNNPredictor(hidden, 1 + classes),
            rpn_pre_nms_top_n_train=before,
            rpn_pre_nms_top_n_test=before,
            rpn_post_nms_top_n_train=count,
            rpn_post_nms_top_n_test=count,
            rpn_nms_thresh=faster_rcnn.RPN_NMS,
            rpn_fg_iou_thresh=high,
            rpn_bg_iou_thresh=low,
            rpn_batch_size_per_image=faster_rcnn.RPN_DRAWN,
            box_fg_iou_thresh=faster_rcnn.HEAD_OVERLAP,
            box_bg_iou_thresh=faster_rcnn.HEAD_OVERLAP,
            box_batch_size_per_image=faster_rcnn.HEAD_DRAWN,
            box_positive_fraction=faster_rcnn.HEAD_SHARE,
            box_score_thresh=0.0,
            box_nms_thresh=OVERLAP,
            box_detections_per_img=AT_MOST,
            image_mean=[0.0] * 3,  # images come standardised
            image_std=[1.0] * 3,
        )
        for part in (body, self.model.rpn.head, self.model.roi_heads.box_predictor):
            part.register_forward_hook(in_float32)

    def forward(
        self, images: torch.Tensor, truths: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor] | list[Found]:
        shorter, longer = sorted(images.shape[-2:])  # its resizing is to leave images as they are
        self.model.transform.min_size, self.model.transform.max_size = (shorter,), longer
        if truths is None:
            return [
                Found(item["boxes"], item["scores"], item["labels"] - 1)
                for item in self.model(list(images))
            ]
        real = [rows[rows[:, 4] >= 0] for rows in truths]
        targets = [{"boxes": rows[:, :4], "labels": rows[:, 4].long() + 1} for rows in real]
        return self.model(list(images), targets)


def in_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A hook: what a layer gives, for boxes made of it in bfloat16 are off by half a pixel."""
    if isinstance(output, torch.Tensor):
        return output.float()
    return type(output)(in_float32(module, inputs, part) for part in output)


def own_roi_align(
    maps: torch.Tensor,
    rois: torch.Tensor,
    output_size: Any,
    spatial_scale: float,
    sampling_ratio: int,
) -> torch.Tensor:
    """`roi_align` called as torchvision calls its own: rois (R, 5) of image number and box."""
    pooled = []
    for number, image in enumerate(maps):
        own = rois[None, rois[:, 0] == number, 1:]
        pooled.append(
            roi_align.roi_align(
                image[None], own, output_size[0], spatial_scale, sampling_ratio, aligned=False
            )
        )
    return torch.cat(pooled, 1)[0]


if not COMPILED:  # ours, which the tests hold against torchvision's where those can be called
    torchvision.ops.boxes.nms = boxes.nms
    torchvision.ops.poolers.roi_align = own_roi_align
