"""A device without float64, as Apple's are, on any machine."""

from __future__ import annotations

from typing import Any

import torch


class NoFloat64(torch.Tensor):
    """A tensor that must go to the CPU before it can become float64."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        if not isinstance(result, torch.Tensor):
            return result
        if func is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        if result.dtype == torch.float64:
            raise TypeError("this device has no float64")
        return result
