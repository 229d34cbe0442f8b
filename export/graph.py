"""From a denoiser to an ONNX graph in memory that keeps every parameter under its own name."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import IdentityEliminationPass
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from safediff.export.operators import translations
from safediff.export.signature import (
    BATCH,
    HEIGHT,
    WIDTH,
    Input,
    Sides,
    signature_of,
    widens_scores,
)

MAX_TRACED_BATCH = 63
"""diffusers has a branch for batches of 64 and more (it only copies a tensor): the graph is traced
below it and runs at any batch size."""
NUM_TRACED_TOKENS = 8


def build_graph(denoiser: Any, opset: int, num_tokens: int) -> ir.Model:
    """Trace, translate and optimise; see ``signature`` for inputs and dynamic dimensions.

    Raises:
        UsageError: the network is of another kind, or has inputs that the graph does not offer.
    """
    signature = signature_of(type(denoiser).__name__)
    inputs = signature.inputs(denoiser.config, num_tokens)
    sides = signature.sides(denoiser.config)
    examples = example_inputs(inputs, sides, denoiser)
    model = trace(
        signature.call(denoiser),
        examples,
        _dynamic_shapes(inputs, sides),
        [signature.output],
        opset,
        signature.prefix,
        known_operators=True,
        wide_scores=widens_scores(denoiser.config, denoiser.dtype),
    )
    _name_dimensions(model, inputs)
    require_names(model, signature.prefix, denoiser.state_dict())
    return model


def example_inputs(
    inputs: Sequence[Input], sides: Sides | None, denoiser: Any
) -> dict[str, Tensor]:
    """Inputs by name, in the graph's order; batch 2, since tracing specialises batches 0 and 1."""
    sizes = {BATCH: 2}
    if sides is not None:
        # not the network's own size, for which PixArt takes a table that holds for no other
        own = denoiser.config.sample_size
        side = 2 * sides.multiple if own != 2 * sides.multiple else 4 * sides.multiple
        sizes |= {HEIGHT: side, WIDTH: side}
    found = {}
    for given in inputs:
        shape = [sizes.get(d, NUM_TRACED_TOKENS) if isinstance(d, str) else d for d in given.shape]
        found[given.name] = torch.ones(
            shape, dtype=given.dtype or denoiser.dtype, device=denoiser.device
        )
    return found


def _dynamic_shapes(inputs: Sequence[Input], sides: Sides | None) -> dict[str, Any]:
    """The dynamic dimensions of each input."""
    known: dict[str, Any] = {BATCH: Dim(BATCH, min=1, max=MAX_TRACED_BATCH)}
    if sides is not None:
        last = {} if sides.largest is None else {"max": sides.largest // sides.multiple}
        known[HEIGHT] = sides.multiple * Dim("rows", min=1, **last)
        known[WIDTH] = sides.multiple * Dim("columns", min=1, **last)
    shapes = {}
    for given in inputs:
        named = {axis: size for axis, size in enumerate(given.shape) if isinstance(size, str)}
        for size in named.values():
            known.setdefault(size, Dim(size, min=1))
        shapes[given.name] = {axis: known[size] for axis, size in named.items()} or None
    return shapes


def trace(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    shapes: Mapping[str, Any],
    outputs: Sequence[str],
    opset: int,
    prefix: str,
    *,
    known_operators: bool = False,
    wide_scores: bool = False,
) -> ir.Model:
    """Trace, translate and optimise one call of ``module``.

    Args:
        module: Its one submodule, named like ``prefix`` without the dot, holds the parameters.
        inputs: Examples by name, in the order of the call.
        shapes: The dynamic dimensions of each input.
        outputs: Names of what the call returns.
        opset: Of the graph.
        prefix: Of the parameters' names.
        known_operators: It is one of diffusers' denoisers, whose operators need not be decomposed,
            which saves half of the time.
        wide_scores: Its attention is computed in float32 up to the softmax.
    """
    own = translations(opset, of_denoiser=known_operators, wide_scores=wide_scores)
    with torch.no_grad():
        program = torch.export.export(
            module.eval(), tuple(inputs.values()), dynamic_shapes=tuple(shapes.values())
        )
        translated = torch.onnx.export(
            _as_decomposed(program, own) if known_operators else program,
            dynamo=True,
            opset_version=opset,
            optimize=False,
            input_names=list(inputs),
            output_names=list(outputs),
            custom_translation_table=own,
            verbose=False,
        )
    assert translated is not None
    model = translated.model
    _optimise(model, prefix)
    _read_sizes_early(model.graph)
    return model


def _as_decomposed(program: ExportedProgram, known: Collection[Any]) -> ExportedProgram:
    """The program with its decomposition switched off where that has nothing to do.

    The exporter traces the whole graph twice more to replace operators that ONNX lacks and to make
    in-place ones functional: half of the time of an export. The networks that are covered have
    neither, or one whose translation is among ``known``; any other graph with an in-place operator
    is left to the exporter.
    """
    if not any(_overwrites(node, known) for node in program.graph.nodes):
        program.run_decompositions = lambda *_: program
    return program


def _overwrites(node: Node, known: Collection[Any]) -> bool:
    """Whether a node changes what others may read."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return False
    changed = node.args[0]
    assert isinstance(changed, Node)
    made = getattr(changed.target, "_schema", None)
    is_new = made is not None and all(out.alias_info is None for out in made.returns)
    return not (node.target in known and is_new and len(changed.users) == 1)


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


def _name_dimensions(model: ir.Model, inputs: Sequence[Input]) -> None:
    """Plain names for the dynamic dimensions instead of the tracer's expressions."""
    graph = model.graph
    for value, given in zip(graph.inputs, inputs, strict=True):
        value.shape = ir.Shape(given.shape)
    (output,), latents = graph.outputs, inputs[0].shape
    assert output.shape is not None
    output.shape = ir.Shape(
        [name if isinstance(name, str) else output.shape[i] for i, name in enumerate(latents)]
    )


def require_names(model: ir.Model, prefix: str, state: Mapping[str, Tensor]) -> None:
    """Every parameter is there under its name, and used: the point of this exporter."""
    found = {name for name, value in model.graph.initializers.items() if value.uses()}
    lost = {prefix + key for key in state} - found
    if lost:
        raise RuntimeError(f"{len(lost)} parameters lost or merged, first {min(lost)}")
