"""torchvision can be imported, whatever became of its compiled operators."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from section4.compat import COMPILED, models, ops, torchvision, v2
from utils.experiments.registry import ROOT

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
SCORES = torch.tensor([0.5, 0.9, 0.7])


def test_models_and_transforms_work() -> None:
    images = torch.rand(2, 3, 32, 32)
    assert v2.RandomErasing(p=1.0)(images).shape == images.shape
    with torch.random.fork_rng():
        assert models.resnet18(num_classes=4).eval()(images).shape == (2, 4)
    assert ops.box_iou(BOXES, BOXES).diagonal().tolist() == [1, 1, 1]  # plain PyTorch, too


def test_compiled_says_whether_the_operators_can_be_called() -> None:
    assert isinstance(COMPILED, bool)
    if COMPILED:
        assert ops.nms(BOXES, SCORES, 0.5).tolist() == [1, 2]
    else:
        with pytest.raises((RuntimeError, NotImplementedError)):
            ops.nms(BOXES, SCORES, 0.5)


@pytest.mark.skipif(COMPILED, reason="torchvision's operators are there")
def test_a_missing_operator_is_told_as_torchvision_tells_it() -> None:
    with pytest.raises(RuntimeError, match="Couldn't load custom C\\+\\+ ops"):
        ops.nms(BOXES, SCORES, 0.5)


def test_an_error_that_is_none_of_ours_is_not_hidden() -> None:
    """Only the missing operators are passed over, not whatever else may be wrong."""
    code = (
        "import sys, types\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torchvision': raise RuntimeError('another fault')\n"
        "sys.meta_path.insert(0, Broken())\n"
        "import section4.compat\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "RuntimeError: another fault" in done.stderr
    assert torchvision.__version__
