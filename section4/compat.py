"""torchvision, also beside a build of PyTorch that its compiled operators do not fit.

PyTorch for the CPU next to a torchvision built for CUDA is quickly installed, and then `import
torchvision` ends with "operator torchvision::nms does not exist", although models and transforms
are plain PyTorch and need no compiled operator. Once those operators are declared, without code
behind them, the rest can be imported. Who calls a compiled one is still told that it is missing.

Import torchvision's modules from here: `from section4.compat import models, v2`.
"""

from __future__ import annotations

import torch

DECLARATIONS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

try:
    import torchvision.transforms.v2
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    _declared = torch.library.Library("torchvision", "DEF")  # is there for as long as this name
    for declaration in DECLARATIONS:
        _declared.define(declaration)
    import torchvision.transforms.v2

models, ops, v2 = torchvision.models, torchvision.ops, torchvision.transforms.v2
# Whether torchvision's own nms, roi_align and so on can be called.
COMPILED: bool = torchvision.extension._has_ops()

__all__ = ["COMPILED", "models", "ops", "torchvision", "v2"]
