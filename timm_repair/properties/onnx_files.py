"""ONNX networks that are one chain of layers, read to a plain nn.Sequential.

The file is read and checked by the `onnx` package. Its nodes become torch modules here, and not by
onnx2torch or onnx2pytorch: these keep a MatMul beside an Add as two constants, and a repair needs
layers whose weights it may train. What was read is compared with the answers of onnx's own
reference evaluator.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from timm_repair.errors import PropertyError, require_packages
from timm_repair.properties.nnet import linear_layer

MOST_BYTES = 256 * 1024**2
_ACTIVATIONS = {
    "Relu": lambda node: nn.ReLU(),
    "Tanh": lambda node: nn.Tanh(),
    "Sigmoid": lambda node: nn.Sigmoid(),
    "LeakyRelu": lambda node: nn.LeakyReLU(node.get("alpha", 0.01)),
    "Elu": lambda node: nn.ELU(node.get("alpha", 1.0)),
    "Softplus": lambda node: nn.Softplus(),
}
_SHAPES = ("Flatten", "Reshape", "Identity", "Dropout", "Squeeze", "Unsqueeze")


def require_onnx() -> None:
    """Raise MissingPackageError unless onnx is installed."""
    require_packages("properties", "reading and writing ONNX", "onnx")


def read(path: str | Path) -> nn.Sequential:
    """The network in an ONNX file: inputs (N, D) to outputs (N, K).

    Raises:
        PropertyError: it cannot be read, or is not one chain of linear layers and activations.
    """
    require_onnx()
    import onnx

    path = Path(path).expanduser()
    try:
        if path.stat().st_size > MOST_BYTES:
            raise PropertyError(
                f"{path.name}: more than {MOST_BYTES} bytes; a network of that size is not read"
            )
        # weights in other files are refused: a stranger's file could name any file of this computer
        proto = onnx.load(str(path), load_external_data=False)
        onnx.checker.check_model(proto)
        constants = _constants(proto.graph, path.name)
    except PropertyError:
        raise
    except Exception as error:  # onnx and protobuf raise what they please on damaged files
        raise PropertyError(
            f"cannot read the network {str(path)!r} ({str(error)[:200]}): give an ONNX file"
        ) from error
    try:
        network = nn.Sequential(*_merged(_chain(proto.graph, constants, path.name), path.name))
    except (ValueError, IndexError, AttributeError) as error:  # numpy's, of shapes that do not fit
        raise PropertyError(
            f"{path.name}: the shapes of its weights do not fit together ({error})"
        ) from error
    compare(network, proto, path.name)
    return network


def _constants(graph, name: str) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    external = [each.name for each in graph.initializer if each.external_data]
    if external:
        raise PropertyError(
            f"{name}: its weights are in other files ({external[0]!r}, …): save it as one file"
        )
    found = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            if value is not None:
                found[node.output[0]] = numpy_helper.to_array(value)
    return found


def _chain(graph, constants: dict[str, np.ndarray], name: str) -> list:
    """Modules, and ("times", matrix) and ("plus", vector) for what is not yet a layer, from the
    input to the output.
    """
    inputs = [each.name for each in graph.input if each.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise PropertyError(
            f"{name}: it has {len(inputs)} inputs and {len(graph.output)} outputs; one of each is"
            " read"
        )
    current, parts = inputs[0], []
    for node in graph.node:
        if node.op_type == "Constant":
            continue
        arriving = [each for each in node.input if each and each not in constants]
        if arriving != [current]:
            raise PropertyError(
                f"{name}: node {node.name or node.op_type!r} is not behind the one before it: only"
                " chains are read"
            )
        current = node.output[0]
        parts += _part(node, [constants.get(each) for each in node.input], name)
    if current != graph.output[0].name:
        raise PropertyError(f"{name}: the last node is not its output: only chains are read")
    return parts


def _part(node, given: list, name: str) -> list:
    from onnx import helper

    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    matrices = [each for each in given if each is not None]
    if node.op_type in _SHAPES:
        return []
    if node.op_type in _ACTIVATIONS:
        return [_ACTIVATIONS[node.op_type](options)]
    if node.op_type == "Gemm" and given[0] is None and not options.get("transA"):
        weight = given[1] if options.get("transB") else given[1].T
        bias = (
            np.zeros(len(weight))
            if len(given) < 3
            else np.broadcast_to(given[2].reshape(-1), len(weight))
        )
        return [
            ("times", options.get("alpha", 1.0) * weight),
            ("plus", options.get("beta", 1.0) * bias),
        ]
    if node.op_type == "MatMul" and matrices and matrices[0].ndim == 2:
        return [("times", matrices[0].T if given[0] is None else matrices[0])]
    if node.op_type in ("Add", "Sub") and matrices:
        value = matrices[0].reshape(-1)
        if node.op_type == "Sub" and given[0] is not None:
            return [("minus", value)]
        return [("plus", value if node.op_type == "Add" else -value)]
    known = ", ".join(sorted([*_ACTIVATIONS, *_SHAPES, "Gemm", "MatMul", "Add", "Sub"]))
    raise PropertyError(
        f"{name}: node {node.name or node.op_type!r} is a {node.op_type}, which is not read. Read"
        f" are {known}"
    )


def _merged(parts: list, name: str) -> list[nn.Module]:
    """Products and sums joined to linear layers."""
    modules: list[nn.Module] = []
    weight = bias = None

    def close() -> None:
        nonlocal weight, bias
        if weight is not None:
            modules.append(linear_layer(torch.from_numpy(weight), torch.from_numpy(bias)))
        weight = bias = None

    for part in parts:
        if isinstance(part, nn.Module):
            if bias is not None and weight is None:
                raise PropertyError(
                    f"{name}: a sum before an activation, without a layer: not read"
                )
            close()
            modules.append(part)
        elif part[0] == "times":
            if weight is not None:
                close()
            weight = np.array(part[1], dtype=np.float64)
            shift = (
                np.zeros(weight.shape[1])
                if bias is None
                else np.broadcast_to(bias, weight.shape[1])
            )
            bias = weight @ shift
        else:
            sign = -1.0 if part[0] == "minus" else 1.0
            bias = part[1].astype(np.float64) + sign * (0.0 if bias is None else bias)
            weight = sign * weight if weight is not None else None
    close()
    if not any(isinstance(module, nn.Linear) for module in modules):
        raise PropertyError(f"{name}: it has no linear layer")
    return modules


def compare(network: nn.Sequential, proto: Any, name: str) -> None:
    """Raise PropertyError unless `network` and onnx's own evaluator of `proto` answer the same."""
    from onnx.reference import ReferenceEvaluator

    first = next(module for module in network if isinstance(module, nn.Linear))
    inputs = torch.rand(1, first.in_features, generator=torch.Generator().manual_seed(0)) - 0.5
    (given,) = [
        each
        for each in proto.graph.input
        if each.name not in {i.name for i in proto.graph.initializer}
    ]
    shape = [each.dim_value or 1 for each in given.type.tensor_type.shape.dim]
    try:
        with torch.no_grad():
            mine = network(inputs)
    except RuntimeError as error:
        raise PropertyError(f"{name}: its layers do not fit together ({error})") from error
    try:
        found: Any = ReferenceEvaluator(proto).run(
            None, {given.name: inputs.numpy().reshape(shape)}
        )
        theirs = torch.as_tensor(found[0]).reshape(1, -1)
    except Exception as error:  # noqa: BLE001  whatever a node raises of what it is given
        raise PropertyError(
            f"{name}: onnx's own evaluator does not run it on {first.in_features} numbers"
            f" ({str(error)[:200]})"
        ) from error
    if mine.shape != theirs.shape or not torch.allclose(mine, theirs.float(), rtol=1e-4, atol=1e-5):
        raise PropertyError(
            f"{name}: what was read answers otherwise than the file; this is an error of"
            " timm_repair, please report it"
        )
