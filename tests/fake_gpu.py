"""A device that is not there: CPU tensors that say they lie on ``cuda:0``, and mind who joins them.

What computes on a real GPU has its tensors moved there; what forgets one ends with "Expected all
tensors to be on the same device". Here tensors of the class ``OnGpu`` stand for those, numbers and
types are real, and the same mistakes raise the same way, without a GPU: an operation on tensors of
both places, ``numpy()``, and a CPU generator that is to draw on the GPU.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from safediff.models.backbone import Backbone

GPU = torch.device("cuda:0")
CPU = torch.device("cpu")


class OnGpu(torch.Tensor):
    """A tensor that was moved there."""


class FakeGpu(TorchFunctionMode):
    """While it is entered, ``OnGpu`` tensors behave as if they lay on a GPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return GPU if isinstance(args[0], OnGpu) else func(*args)
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return isinstance(args[0], OnGpu)
        if func in _MOVES:
            return _moved(func, args, kwargs)
        if func is Tensor.pin_memory:  # which needs a driver
            return args[0]
        if func is torch._has_compatible_shallow_copy_type:  # ``Module.to`` asks before it moves
            return isinstance(args[0], OnGpu) == isinstance(args[1], OnGpu) and func(*args)
        if func is Tensor.__deepcopy__ and isinstance(args[0], OnGpu):
            return _copied(*args)
        there = [t for t in _tensors((args, kwargs)) if isinstance(t, OnGpu)]
        if func in _TO_HOST and there:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
        on_gpu = bool(there)
        if kwargs.get("device") is not None:  # that of the result, whatever goes in
            on_gpu = torch.device(kwargs["device"]).type == "cuda"
            if on_gpu and kwargs.get("generator") is not None:
                raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
            if on_gpu or there:
                kwargs["device"] = CPU
        elif there:
            _require_one_place(func, args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            found = _in_half(func, args, kwargs) if there else func(*args, **kwargs)
        return _marked(found) if on_gpu and func not in _PLAIN else found


class Waits(FakeGpu):
    """Counts what makes a real GPU's host wait for it: values that cross between the two."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = super().__torch_function__(func, types, args, kwargs)
        there = bool(args) and isinstance(args[0], OnGpu)
        crossed = func in _MOVES and isinstance(found, OnGpu) != there
        looked_up = func is Tensor.__getitem__ and not there
        looked_up = looked_up and any(isinstance(t, OnGpu) for t in _tensors(args[1:]))
        self.count += crossed or looked_up or (func in _READS and there)
        return found


_MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda, Tensor.type_as}
_TO_HOST = {Tensor.numpy, Tensor.__array__}
_READS = {
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.nonzero, Tensor.equal, torch.equal),
    *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
}
"""What hands values of a tensor to Python."""
_INDEXED = {Tensor.__getitem__, Tensor.__setitem__, Tensor.copy_, torch.index_put}
"""What takes indices or values from the CPU."""
_PLAIN = {Tensor.tolist, Tensor.item}
_IN_FLOAT32 = {torch.conv2d, nn.functional.linear}
"""What adds up in float32 on a GPU where values are halves, and takes CPUs without such an
instruction fifty times as long if they are."""


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from _tensors(value)


def _in_half(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """The result; added up in float32 and rounded where all values are of one type of halves."""
    given = list(_tensors((args, kwargs)))
    types = {t.dtype for t in given}
    if func not in _IN_FLOAT32 or types not in ({torch.float16}, {torch.bfloat16}):
        return func(*args, **kwargs)
    wide = [v.float() if isinstance(v, Tensor) else v for v in args]
    named = {k: v.float() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
    return func(*wide, **named).to(given[0].dtype)


def _require_one_place(func: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
    if func in _INDEXED or getattr(func, "__name__", "") == "__set__":
        return
    others = [t for t in _tensors((args, kwargs)) if not isinstance(t, OnGpu) and t.ndim > 0]
    if others:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:0 and cpu! ({getattr(func, '__name__', func)}, {tuple(others[0].shape)})"
        )


def _marked(found: Any) -> Any:
    """All tensors of a result, on the GPU."""
    if isinstance(found, OnGpu):
        return found
    if isinstance(found, Tensor):
        return found.as_subclass(OnGpu)
    if isinstance(found, (tuple, list)) and any(isinstance(value, Tensor) for value in found):
        values = [_marked(value) for value in found]
        if hasattr(found, "_fields"):
            return type(found)(*values)
        return type(found)(values)
    return found


def _moved(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """``to`` and its like; of the same place and type it is the tensor itself, as in torch."""
    tensor, *rest = args
    on_gpu = isinstance(tensor, OnGpu)
    if func is Tensor.cpu or func is Tensor.cuda:
        on_gpu, rest = func is Tensor.cuda, []
    given = [*rest, kwargs.pop("device", None), kwargs.pop("other", None)]
    options: list[Any] = []
    for value in given:
        if isinstance(value, (str, torch.device)):
            on_gpu = torch.device(value).type == "cuda"
        elif isinstance(value, Tensor):
            on_gpu = isinstance(value, OnGpu)
            options.append(value.dtype)
        elif isinstance(value, torch.dtype):  # and not ``non_blocking``
            options.append(value)
    with torch._C.DisableTorchFunctionSubclass():
        found: Tensor = tensor.to(*options, **kwargs) if options or kwargs else tensor
        if on_gpu == isinstance(found, OnGpu):
            return found
        return found.as_subclass(OnGpu if on_gpu else Tensor)


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    if id(tensor) not in memo:
        new = tensor.detach().as_subclass(Tensor).clone().as_subclass(OnGpu)
        memo[id(tensor)] = _like(tensor, new)
    found: Tensor = memo[id(tensor)]
    return found


def _like(tensor: Tensor, new: Tensor) -> Tensor:
    """A parameter where ``tensor`` is one."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new


def to_gpu(module: nn.Module) -> nn.Module:
    """A network whose parameters and buffers lie there."""
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = _like(tensor, tensor.detach().as_subclass(OnGpu))
    return module


def on_gpu(backbone: Backbone) -> Backbone:
    """The model as ``load_backbone`` would give it where there is a GPU."""
    for part in backbone.components().values():
        if isinstance(part, nn.Module):
            to_gpu(part)
    return backbone


Load = Callable[..., Backbone]


def loading_on_gpu(load: Load) -> Load:
    """A ``load_backbone`` for a machine with one."""
    return lambda *args, **kwargs: on_gpu(load(*args, **kwargs))
