"""Networks from .nnet and ONNX, and back."""

import pytest
import torch
from torch import nn

from timm_repair.errors import ModelError, PropertyError
from timm_repair.properties import networks as files
from timm_repair.properties import nnet, onnx_files


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1,2,2,2,\n2,2,",
        "1,2,2,2,\n2,x,",
        "-1,2,2,2,",
        "1,2,2,2,\n2,2,\n0,\n0,0,\n1,1,\n0,0,nan,\n",
    ],
)
def test_a_malformed_nnet_is_refused_with_the_line(text, tmp_path):
    path = tmp_path / "bad.nnet"
    path.write_text("// comment\n" + text)
    with pytest.raises(PropertyError, match=r"bad\.nnet, line \d"):
        files.load(path)


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_networks_are_written_and_read_to_the_bit(suffix, tmp_path):
    network = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    path = files.save(network, tmp_path / f"net{suffix}")
    again, inputs = files.load(path), torch.randn(50, 3)
    assert [type(module) for module in again] == [type(module) for module in network]
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True)
    )
    assert torch.equal(again(inputs), network(inputs))


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.Sigmoid(), nn.LeakyReLU(0.3)])
def test_other_activations_go_to_onnx_and_not_to_nnet(activation, tmp_path):
    network = nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 2))
    again, inputs = files.load(files.save(network, tmp_path / "net.onnx")), torch.randn(50, 3)
    assert torch.allclose(again(inputs), network(inputs), atol=1e-6)
    with pytest.raises(PropertyError, match="write it as ONNX"):
        nnet.write(network, tmp_path / "net.nnet")


def test_onnx_as_others_write_it(tmp_path):
    """A difference, products and sums apart, as in the ACAS Xu files of VNN-COMP; and what is no
    chain is refused.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    layer = nn.Linear(2, 3)
    constants = {"mean": torch.tensor([0.5, -1.0]), "w": layer.weight.T, "b": layer.bias}
    initial = [
        numpy_helper.from_array(value.detach().numpy().copy(), name)
        for name, value in constants.items()
    ]
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Sub", ["f", "mean"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("x", [1, 1, 1, 2]), ("y", [1, 3]))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], initial),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    onnx.save(model, str(tmp_path / "net.onnx"))
    inputs = torch.randn(20, 2)
    assert torch.allclose(
        onnx_files.read(tmp_path / "net.onnx")(inputs),
        layer(inputs - constants["mean"]).relu(),
        atol=1e-5,
    )
    model.graph.node[4].op_type = "Erf"
    onnx.save(model, str(tmp_path / "other.onnx"))
    with pytest.raises(PropertyError, match="is a Erf, which is not read"):
        files.load(tmp_path / "other.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"\x00\x01noise")
    with pytest.raises(PropertyError, match="cannot read the network"):
        files.load(tmp_path / "noise.onnx")
    with pytest.raises(ModelError, match="there is no file"):
        files.load(tmp_path / "absent.nnet")
