"""From a UNet to an ONNX graph in memory that keeps every parameter under its own name."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from onnx_ir.passes.common import IdentityEliminationPass
from onnxscript import opset18
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from safediff.errors import UsageError

PREFIX = "unet."
OUTPUT_NAME = "out_sample"
NUM_TIME_IDS = 6
"""Base SDXL: original size, crop, target size, two numbers each."""
MAX_TRACED_BATCH = 63
"""diffusers has a branch for batches of 64 and more (it only copies a tensor): the graph is traced
below it and runs at any batch size."""
GELU_OPSET = 20
"""From here on ONNX has it."""
UNSUPPORTED = ("class_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim")


class _Graph(nn.Module):
    """The call that is traced. The attribute's name becomes the prefix of every parameter."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        """Noise prediction, shape of ``sample`` (b, c, h, w)."""
        added = None
        if text_embeds is not None:
            # diffusers joins it with float32 time embeddings; ONNX Runtime refuses mixed types
            added = {"text_embeds": text_embeds.float(), "time_ids": time_ids}
        out: Tensor = self.unet(
            sample,
            timestep.reshape(1),
            encoder_hidden_states,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return out


def size_multiple(config: Any) -> int:
    """Latent height and width must be multiples of this: the graph lacks the resize branch."""
    return int(2 ** (len(config.block_out_channels) - 1))


def build_graph(unet: UNet2DConditionModel, opset: int, num_tokens: int) -> ir.Model:
    """Trace, translate and optimise; batch, height and width are dynamic.

    Raises:
        UsageError: the UNet has inputs that the graph does not offer.
    """
    inputs = example_inputs(unet, num_tokens)
    batch = Dim("batch", min=1, max=MAX_TRACED_BATCH)
    multiple = size_multiple(unet.config)
    shapes: dict[str, Any] = {name: {0: batch} for name in inputs}
    shapes["sample"] |= {2: multiple * Dim("rows", min=1), 3: multiple * Dim("columns", min=1)}
    shapes["timestep"] = None
    model = trace(_Graph(unet), inputs, shapes, [OUTPUT_NAME], opset, PREFIX, is_unet=True)
    _name_dimensions(model)
    require_names(model, PREFIX, unet.state_dict())
    return model


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    shapes: Mapping[str, Any],
    outputs: Sequence[str],
    opset: int,
    prefix: str,
    *,
    is_unet: bool = False,
) -> ir.Model:
    """Trace, translate and optimise one call of ``module``.

    Args:
        module: Its one submodule, named like ``prefix`` without the dot, holds the parameters.
        inputs: Examples by name, in the order of the call.
        shapes: The dynamic dimensions of each input.
        outputs: Names of what the call returns.
        opset: Of the graph.
        prefix: Of the parameters' names.
        is_unet: Its operators are known, which saves half of the time.
    """
    with torch.no_grad():
        program = torch.export.export(
            module.eval(), tuple(inputs.values()), dynamic_shapes=tuple(shapes.values())
        )
        translated = torch.onnx.export(
            _as_decomposed(program) if is_unet else program,
            dynamo=True,
            opset_version=opset,
            optimize=False,
            input_names=list(inputs),
            output_names=list(outputs),
            custom_translation_table=_translations(opset) | (_OF_A_UNET if is_unet else {}),
            verbose=False,
        )
    assert translated is not None
    model = translated.model
    _optimise(model, prefix)
    _read_sizes_early(model.graph)
    return model


def example_inputs(unet: UNet2DConditionModel, num_tokens: int) -> dict[str, Tensor]:
    """Inputs by name, in the graph's order; batch 2, since tracing specialises batches 0 and 1."""
    config: Any = unet.config
    dtype = unet.dtype
    given = [name for name in UNSUPPORTED if config.get(name) is not None]
    if given or config.addition_embed_type not in (None, "text_time"):
        raise UsageError(
            f"this UNet needs {', '.join(given) or config.addition_embed_type}; the ONNX export "
            "covers Stable Diffusion 1.x, 2.x and base SDXL",
            "remove onnx from export.targets",
        )
    side = 2 * size_multiple(config)
    inputs = {
        "sample": torch.randn(2, config.in_channels, side, side, dtype=dtype),
        "timestep": torch.tensor(500.0),  # float32 always: float16 cannot hold 946.26
        "encoder_hidden_states": torch.randn(
            2, num_tokens, config.cross_attention_dim, dtype=dtype
        ),
    }
    if config.addition_embed_type == "text_time":
        added = NUM_TIME_IDS * config.addition_time_embed_dim
        pooled = config.projection_class_embeddings_input_dim - added
        inputs["text_embeds"] = torch.randn(2, pooled, dtype=dtype)
        inputs["time_ids"] = torch.ones(2, NUM_TIME_IDS, dtype=dtype)
    return {name: tensor.to(unet.device) for name, tensor in inputs.items()}


def _as_decomposed(program: ExportedProgram) -> ExportedProgram:
    """The program with its decomposition switched off where that has nothing to do.

    The exporter traces the whole graph twice more to replace operators that ONNX lacks and to make
    in-place ones functional: half of the time of an export. A UNet of this family has neither; a
    graph with an in-place operator is left to the exporter.
    """
    operators = (node.target for node in program.graph.nodes if node.op == "call_function")
    schemas = (getattr(operator, "_schema", None) for operator in operators)
    if not any(schema is not None and schema.is_mutable for schema in schemas):
        program.run_decompositions = lambda *_: program
    return program


def _translations(opset: int) -> dict[Any, Any]:
    found: dict[Any, Any] = {torch.ops.aten.to.dtype: _to_dtype}
    if opset < GELU_OPSET:
        found[torch.ops.aten.gelu.default] = _gelu
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
    of queries and keys with scale and transposition.
    """
    if attn_mask is not None or dropout_p or is_causal or enable_gqa:
        raise NotImplementedError("attention with a mask, dropout, a causal order or shared heads")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scaled = opset18.Mul(q, ir.tensor(scale, dtype=q.dtype))
    scores = opset18.MatMul(scaled, opset18.Transpose(k, perm=[0, 1, 3, 2]))
    return opset18.MatMul(opset18.Softmax(scores, axis=-1), v)


_OF_A_UNET = {torch.ops.aten.scaled_dot_product_attention.default: _attention}


def _gelu(x: Any, approximate: str = "none") -> Any:
    """GELU, x (1 + erf(x / sqrt 2)) 0.5, in the order that ONNX Runtime makes one operator of."""
    if approximate != "none":
        raise NotImplementedError(f"gelu with approximate={approximate!r}")
    erf = opset18.Erf(opset18.Div(x, ir.tensor(math.sqrt(2), dtype=x.dtype)))
    inner = opset18.Mul(x, opset18.Add(erf, ir.tensor(1.0, dtype=x.dtype)))
    return opset18.Mul(inner, ir.tensor(0.5, dtype=x.dtype))


def _to_dtype(x: Any, dtype: int, non_blocking: bool = False, copy: bool = False) -> Any:
    """``aten.to.dtype``, the one operator here that the exporter only knows decomposed."""
    return opset18.Cast(x, to=dtype)


def _optimise(model: ir.Model, prefix: str) -> None:
    """Fold and simplify with the parameters shown to the optimiser as inputs.

    As constants they would be folded into others, and small equal ones (the norms of a fresh
    network) would be merged: a later swap of weights would then change the wrong layer.
    """
    graph = model.graph
    parameters = [v for name, v in graph.initializers.items() if name.startswith(prefix)]
    values = [parameter.const_value for parameter in parameters]
    num_inputs = len(graph.inputs)
    for parameter in parameters:
        del graph.initializers[str(parameter.name)]
        parameter.const_value = None
        graph.inputs.append(parameter)
    optimize_ir(model, num_iterations=1)
    IdentityEliminationPass()(model)
    del graph.inputs[num_inputs:]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.const_value = value
        graph.register_initializer(parameter)
    for node in graph:  # stack traces of this machine, several times the size of the graph
        node.metadata_props.clear()
        node.doc_string = None


def _read_sizes_early(graph: ir.Graph) -> None:
    """Take every dynamic size from the first tensor that has it, most often an input.

    The tracer takes it from whichever tensor it met, and to ask a convolution's result for its
    shape alone makes ONNX Runtime bring it into another memory layout: 1 % of a step.
    """
    first: dict[str, tuple[ir.Value, int]] = {}
    for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                first.setdefault(size.value, (value, axis))
    for node in graph:
        if node.op_type != "Shape" or not {"start", "end"} <= node.attributes.keys():
            continue
        start, end = (node.attributes[name].as_int() for name in ("start", "end"))
        asked = node.inputs[0]
        if end != start + 1 or asked is None or asked.shape is None:
            continue
        value, axis = first.get(str(getattr(asked.shape[start], "value", None)), (asked, start))
        node.replace_input_with(0, value)
        node.attributes["start"] = ir.AttrInt64("start", axis)
        node.attributes["end"] = ir.AttrInt64("end", axis + 1)


def _name_dimensions(model: ir.Model) -> None:
    """Plain names for the dynamic dimensions instead of the tracer's expressions."""
    graph = model.graph
    sample, output = graph.inputs[0], graph.outputs[0]
    for value in graph.inputs:
        if value.shape is not None and len(value.shape) > 0:
            value.shape = ir.Shape(["batch", *value.shape[1:]])
    for value in (sample, output):
        assert value.shape is not None
        value.shape = ir.Shape(["batch", value.shape[1], "height", "width"])


def require_names(model: ir.Model, prefix: str, state: Mapping[str, Tensor]) -> None:
    """Every parameter is there under its name, and used: the point of this exporter."""
    found = {name for name, value in model.graph.initializers.items() if value.uses()}
    lost = {prefix + key for key in state} - found
    if lost:
        raise RuntimeError(f"{len(lost)} parameters lost or merged, first {min(lost)}")
