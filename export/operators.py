"""Operators whose ONNX is written here, because the exporter's own is slower or missing."""

import math
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import onnxscript
import torch
from onnx_ir.tensor_adapters import from_torch_dtype, to_torch_dtype

aten: Any = torch.ops.aten
opset18: Any = onnxscript.opset18
"""Its types are those of eager values; here it builds graphs."""

GELU_OPSET = 20
"""From here on ONNX has it."""


def translations(opset: int, *, of_denoiser: bool, wide_scores: bool = False) -> dict[Any, Any]:
    """By operator, as ``torch.onnx.export`` takes them; all that diffusers' denoisers need.

    ``wide_scores``: attention is computed in float32 up to its softmax.
    """
    found: dict[Any, Any] = {aten.to.dtype: _to_dtype}
    if opset < GELU_OPSET:
        found[aten.gelu.default] = _gelu
    if of_denoiser:
        found |= OF_A_DENOISER
    if wide_scores:
        found[aten.scaled_dot_product_attention.default] = _wide_attention
    return found


def _attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention of (b, heads, tokens, d) tensors in five operators, two of which then vanish.

    The exporter's own is for any rank: it takes the shape of every key apart and puts it together
    again, a tenth of the operators of a graph. Here ONNX Runtime makes one operator of the product
    of queries and keys with scale and transposition. A mask is added to the scores.
    """
    masks_by_number = attn_mask is None or attn_mask.dtype == q.dtype
    if not masks_by_number or dropout_p or is_causal or enable_gqa:
        raise NotImplementedError("attention with a mask of bool, dropout, order or shared heads")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scaled = opset18.Mul(q, ir.tensor(scale, dtype=q.dtype))
    scores = opset18.MatMul(scaled, opset18.Transpose(k, perm=[0, 1, 3, 2]))
    if attn_mask is not None:
        scores = opset18.Add(scores, attn_mask)
    return opset18.MatMul(opset18.Softmax(scores, axis=-1), v)


def _wide_attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """The same with scores and softmax in float32: float16 can't hold scores above 65504."""
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        raise NotImplementedError("wide attention with a mask, dropout, order or shared heads")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    wide_q, wide_k = (opset18.Cast(x, to=ir.DataType.FLOAT) for x in (q, k))
    scaled = opset18.Mul(wide_q, ir.tensor(scale, dtype=ir.DataType.FLOAT))
    scores = opset18.MatMul(scaled, opset18.Transpose(wide_k, perm=[0, 1, 3, 2]))
    weights = opset18.Cast(opset18.Softmax(scores, axis=-1), to=v.dtype)
    return opset18.MatMul(weights, v)


def _gelu(x: Any, approximate: str = "none") -> Any:
    """GELU in the order that ONNX Runtime makes one operator of.

    Exact, x (1 + erf(x / sqrt 2)) 0.5, or x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) 0.5.
    """
    if approximate == "tanh":
        cubed = opset18.Pow(x, ir.tensor(3.0, dtype=x.dtype))
        inner = opset18.Add(x, opset18.Mul(ir.tensor(0.044715, dtype=x.dtype), cubed))
        scaled = opset18.Mul(ir.tensor(math.sqrt(2 / math.pi), dtype=x.dtype), inner)
        bend = opset18.Add(opset18.Tanh(scaled), ir.tensor(1.0, dtype=x.dtype))
        return opset18.Mul(ir.tensor(0.5, dtype=x.dtype), opset18.Mul(x, bend))
    if approximate != "none":
        raise NotImplementedError(f"gelu with approximate={approximate!r}")
    erf = opset18.Erf(opset18.Div(x, ir.tensor(math.sqrt(2), dtype=x.dtype)))
    inner = opset18.Mul(x, opset18.Add(erf, ir.tensor(1.0, dtype=x.dtype)))
    return opset18.Mul(inner, ir.tensor(0.5, dtype=x.dtype))


def _rms_norm(x: Any, shape: list[int], weight: Any = None, eps: float | None = None) -> Any:
    """X / sqrt(mean(x^2) + eps) w over the last dimension, in float32 as PyTorch does."""
    if len(shape) != 1:
        raise NotImplementedError(f"rms_norm over {len(shape)} dimensions")
    eps = torch.finfo(to_torch_dtype(x.dtype)).eps if eps is None else eps
    wide = opset18.Cast(x, to=ir.DataType.FLOAT)
    squares = opset18.Pow(wide, ir.tensor(2.0, dtype=ir.DataType.FLOAT))
    mean = opset18.ReduceMean(squares, opset18.Constant(value_ints=[-1]))
    norm = opset18.Sqrt(opset18.Add(mean, ir.tensor(eps, dtype=ir.DataType.FLOAT)))
    out = opset18.Cast(opset18.Div(wide, norm), to=x.dtype)
    return out if weight is None else opset18.Mul(out, weight)


def _to_dtype(x: Any, dtype: int, non_blocking: bool = False, copy: bool = False) -> Any:
    """``aten.to.dtype``, which the exporter only knows decomposed, as it does what follows."""
    return opset18.Cast(x, to=dtype)


def _to_dtype_layout(x: Any, dtype: int = -1, **_: Any) -> Any:
    """The same with a device, which graphs do not have."""
    return x if dtype == -1 else opset18.Cast(x, to=dtype)


def _rsub(x: Any, other: float, alpha: float = 1.0) -> Any:
    if alpha != 1:
        raise NotImplementedError(f"rsub with alpha={alpha}")
    return opset18.Sub(ir.tensor(other, dtype=x.dtype), x)


def _div(x: Any, other: Any) -> Any:
    """``aten.div_.Tensor``, where nothing else reads what it overwrites."""
    return opset18.Div(x, other if hasattr(other, "dtype") else ir.tensor(other, dtype=x.dtype))


def _outer(x: Any, y: Any) -> Any:
    """Of two types in the wider one, as PyTorch has it."""
    dtype = torch.promote_types(to_torch_dtype(x.dtype), to_torch_dtype(y.dtype))
    x, y = (opset18.Cast(v, to=from_torch_dtype(dtype)) for v in (x, y))
    return opset18.Mul(opset18.Unsqueeze(x, opset18.Constant(value_ints=[1])), y)


def _clip(x: Any, low: float | None = None, high: float | None = None) -> Any:
    limits = [None if v is None else ir.tensor(v, dtype=x.dtype) for v in (low, high)]
    return opset18.Clip(x, *limits)


def _meshgrid(tensors: Any, indexing: str = "ij") -> Any:
    """Two vectors (m,) and (n,) as grids (m, n), or (n, m) under ``xy``."""
    if len(tensors) != 2:
        raise NotImplementedError(f"meshgrid of {len(tensors)} vectors")
    first, second = tensors
    along_rows, along_columns = (first, second) if indexing == "ij" else (second, first)
    rows = opset18.Unsqueeze(along_rows, opset18.Constant(value_ints=[1]))
    shape = opset18.Concat(opset18.Shape(along_rows), opset18.Shape(along_columns), axis=0)
    grids = opset18.Expand(rows, shape), opset18.Expand(along_columns, shape)
    return grids if indexing == "ij" else grids[::-1]


def _squeeze(x: Any, dim: int) -> Any:
    """``aten.squeeze.dim``, which leaves a dimension alone that is not 1.

    The exporter's own drops it all the same, and the graph then cannot be run.
    """
    return opset18.Squeeze(x, opset18.Constant(value_ints=[dim])) if x.shape[dim] == 1 else x


OF_A_DENOISER: Mapping[Any, Any] = {
    aten.scaled_dot_product_attention.default: _attention,
    aten.rms_norm.default: _rms_norm,
    aten.to.dtype_layout: _to_dtype_layout,
    aten.squeeze.dim: _squeeze,
    aten.rsub.Scalar: _rsub,
    aten.outer.default: _outer,
    aten.clip.default: _clip,
    aten.meshgrid.indexing: _meshgrid,
    aten.div_.Tensor: _div,
}
"""Operators of UNets and transformers that the exporter only knows decomposed, and attention."""
