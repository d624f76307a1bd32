"""What every layer of the course is: a function, its derivative, and its parameters.

A network is a composition of functions, and backpropagation is the chain rule read from
the last function to the first. So a layer needs two methods that stand side by side:
`forward` computes y = f(x), and `backward` turns dL/dy into dL/dx while it adds dL/dw to
the gradient of every parameter w that it owns.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from section1.parameter import Parameter


class Layer:
    """Base class. A subclass writes `forward` and `backward`; the rest is found from it.

    - Parameters and sub-layers are attributes, or lists of layers in attributes.
    - `forward` calls `remember` with what `backward` will need; in evaluation mode
      nothing is remembered.
    - `backward` changes neither its argument nor what was remembered: it may be called
      twice, and then adds the gradients twice.
    - Large results are written into `scratch` arrays.
    """

    training: bool = True
    input_gradient: bool = True  # False: nobody reads dx, so a layer may return None
    whole_batch: bool = False  # True: the rows of a batch depend on each other
    micro_batch: int = 128  # rows that are best computed at once; see `section1.training`

    def forward(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        raise NotImplementedError

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.forward(x)

    # --- the tree of layers -----------------------------------------------------------

    def children(self) -> Iterator[Layer]:
        for attribute in vars(self).values():
            if isinstance(attribute, Layer):
                yield attribute
            elif isinstance(attribute, (list, tuple)):
                yield from (item for item in attribute if isinstance(item, Layer))

    def modules(self) -> Iterator[Layer]:
        """This layer and every layer inside it, from the input to the output."""
        yield self
        for child in self.children():
            yield from child.modules()

    def parameters(self) -> list[Parameter]:
        """Every parameter, once; one that two layers share comes where it is met first."""
        found = (attribute for module in self.modules() for attribute in vars(module).values())
        return list(dict.fromkeys(item for item in found if isinstance(item, Parameter)))

    def buffers(self) -> list[np.ndarray]:
        """State that is not trained (running statistics), changed in place only."""
        return [array for child in self.children() for array in child.buffers()]

    def zero_grad(self) -> None:
        for parameter in self.parameters():
            parameter.zero_grad()

    def reseed(self, *numbers: int) -> None:
        """Start the random numbers of every layer inside anew, at a place named by `numbers`.

        The training loop names (step, micro-batch): so masks do not depend on which
        thread draws them, and a resumed run draws what the uninterrupted one would have.
        """
        for child in self.children():
            child.reseed(*numbers)

    # --- training and evaluation mode -------------------------------------------------

    def train(self) -> None:
        for module in self.modules():
            module.training = True

    def eval(self) -> None:
        for module in self.modules():
            module.training = False
            module._memory = None

    # --- memory -----------------------------------------------------------------------

    _memory: Any = None
    _scratch: dict[str, np.ndarray] | None = None
    _workspace: dict[str, np.ndarray] | None = None

    def remember(self, *arrays: Any) -> None:
        """Keep what `backward` needs; one set only, that of the last training forward."""
        if self.training:
            self._memory = arrays

    def recall(self) -> Any:
        """What `remember` kept: a single thing as it is, several as a tuple.

        Raises RuntimeError where there was no forward pass in training mode.
        """
        if self._memory is None:
            raise RuntimeError(
                f"{type(self).__name__}.backward needs a forward pass in training mode before it"
            )
        return self._memory[0] if len(self._memory) == 1 else self._memory

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised array to write a result into.

        It is a fresh one, so that what `forward` returned stays as it is; but in training a
        replica (see below) hands out the same memory at every step, because the first touch
        of fresh memory costs more than the arithmetic that follows.
        """
        return array_from(self._scratch if self.training else None, name, shape, dtype)

    def workspace(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """Like `scratch`, for what is used up before forward or backward returns.

        All layers of a replica use the same memory, which so stays in cache.
        """
        return array_from(self._workspace if self.training else None, name, shape, dtype)

    def replica(self, share_gradients: bool = False) -> Layer:
        """A copy for one worker: the same weights, but its own memory and gradients.

        The arrays of `parameters()` and `buffers()` are shared, not copied, so a change
        of the weights shows in every replica at once. With `share_gradients` the
        gradients are shared too.
        """
        shared: list[Any] = list(self.buffers())
        if share_gradients:
            shared += self.parameters()
        else:
            shared += [parameter.value for parameter in self.parameters()]
        memo = {id(item): item for item in shared}
        for module in self.modules():  # what was remembered belongs to the original
            memo[id(module._memory)] = None
        twin = copy.deepcopy(self, memo)
        workspace: dict[str, np.ndarray] = {}
        for module in twin.modules():
            module._scratch, module._workspace = {}, workspace
        return twin

    def share_scratch(self, twin: Layer) -> None:
        """Write into the arrays of another replica that never runs at the same time."""
        for mine, its in zip(self.modules(), twin.modules()):
            mine._scratch, mine._workspace = its._scratch, its._workspace

    def skip_input_gradient(self) -> None:
        """Tell the first layer of a network that nobody will read its dx."""
        self.input_gradient = False


def array_from(
    memory: dict[str, np.ndarray] | None, name: str, shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
    """An uninitialised array: a fresh one, or part of the longest that had this name before."""
    if memory is None:
        return np.empty(shape, dtype)
    size = math.prod(shape)
    array = memory.get(name)
    if array is None or array.size < size or array.dtype != dtype:
        array = memory[name] = np.empty(size, dtype)
    return array[:size].reshape(shape)
