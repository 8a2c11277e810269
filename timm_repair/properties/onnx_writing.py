"""A chain of layers written as ONNX, with onnx's own helpers, and compared."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_repair.errors import OutputError, PropertyError
from timm_repair.properties.onnx_files import compare, require_onnx

_WRITTEN = {
    nn.ReLU: "Relu",
    nn.Tanh: "Tanh",
    nn.Sigmoid: "Sigmoid",
    nn.LeakyReLU: "LeakyRelu",
    nn.ELU: "Elu",
    nn.Softplus: "Softplus",
}
_NOTHING = (nn.Identity, nn.Dropout, nn.Flatten)  # in eval mode, to vectors


def chain_of(network: nn.Module) -> list[nn.Module]:
    """The layers of a chain that can be written; those that do nothing in eval mode are left out.

    Raises:
        PropertyError: the network is no chain of linear layers and known activations.
    """
    modules = list(network.children()) if isinstance(network, nn.Sequential) else [network]
    modules = [module for module in modules if not isinstance(module, _NOTHING)]
    for module in modules:
        if type(module) not in (nn.Linear, *_WRITTEN):
            raise PropertyError(
                f"a {type(module).__name__} cannot be written as a layer of a chain: give an"
                " nn.Sequential of nn.Linear and activations"
                f" ({', '.join(kind.__name__ for kind in _WRITTEN)})"
            )
    if not any(isinstance(module, nn.Linear) for module in modules):
        raise PropertyError("a network without a linear layer cannot be written")
    return modules


def write(network: nn.Module, path: str | Path) -> Path:
    """Write a chain of linear layers and activations as ONNX, and compare the answers.

    Raises:
        PropertyError: a layer cannot be written so, or what was written answers otherwise.
        OutputError: the file cannot be written.
        MissingPackageError: onnx is not installed.
    """
    require_onnx()
    import onnx
    from onnx import TensorProto, helper

    path, modules = Path(path).expanduser(), chain_of(network)
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    nodes, constants, current = [], [], "input"
    for number, module in enumerate(modules):
        node, tensors = _written(module, number, current)
        nodes.append(node)
        constants += tensors
        (current,) = node.output
    ends = (("input", linear[0].in_features), (current, linear[-1].out_features))
    infos = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, ["batch", size]) for end, size in ends
    ]
    graph = helper.make_graph(nodes, "network", infos[:1], infos[1:], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    compare(nn.Sequential(*modules), proto, path.name)
    new = path.with_name(path.name + ".new")
    try:
        new.write_bytes(proto.SerializeToString())
        new.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r} ({error}): choose another file") from error
    finally:
        new.unlink(missing_ok=True)
    return path


def _written(module: nn.Module, number: int, arriving: str) -> tuple[Any, list]:
    """The node of one layer, and its tensors."""
    from onnx import helper, numpy_helper

    leaving = f"value_{number}"
    if not isinstance(module, nn.Linear):
        given = getattr(module, "negative_slope", getattr(module, "alpha", None))
        options = {} if given is None else {"alpha": given}
        kind = _WRITTEN[type(module)]
        return helper.make_node(kind, [arriving], [leaving], **options), []
    bias = torch.zeros(module.out_features) if module.bias is None else module.bias
    tensors = {f"{number}.weight": module.weight, f"{number}.bias": bias}
    node = helper.make_node("Gemm", [arriving, *tensors], [leaving], transB=1)
    return node, [
        numpy_helper.from_array(tensor.detach().cpu().float().numpy(), name)
        for name, tensor in tensors.items()
    ]
