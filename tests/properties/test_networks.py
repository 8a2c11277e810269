"""Networks from .nnet and ONNX, and back."""

import pytest
import torch
from torch import nn

import timm_repair
from timm_repair import errors
from timm_repair.errors import MissingPackageError, ModelError, PropertyError
from timm_repair.properties import networks as files
from timm_repair.properties import nnet, onnx_files
from timm_repair.properties.property import Property


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


HEADER = "// made by hand\n2,1,1,2,\n1,2,1,\n0,\n0,\n1,\n0,0,\n1,1,\n"  # 1 -> 2 -> 1; eight lines
BODY = ["1,", "1,", "0,", "0,", "1,1,", "0,"]


def nnet_of(*lines: str) -> str:
    return HEADER + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (nnet_of(*BODY[:2], "0,7,", *BODY[3:]), "line 11: a bias of layer 1 needs 1 numbers"),
        (nnet_of(*BODY[:4], "1,", "0,"), "line 13: a row of layer 2 needs 2 numbers, here are 1"),
        (nnet_of(*BODY[:-1]), "line 14: the file ends before a bias of layer 2"),
        (nnet_of(*BODY, "0,"), "line 15: the last bias is before it"),
        (nnet_of(*BODY[:2], "x,", *BODY[3:]), "line 11: a bias of layer 1 must be numbers"),
        (HEADER.replace("1,2,1,", "1,2.5,1,"), "line 3: the sizes of the layers must be whole"),
        (HEADER.replace("1,2,1,", "1,2,3,"), "line 3: sizes .* do not go from 1 inputs to 1"),
        (HEADER.replace("1,1,\n", "1,0,\n") + "\n".join(BODY), "line 8: a range is 0"),
    ],
)
def test_shapes_of_an_nnet_are_checked_line_by_line(text, message, tmp_path):
    path = tmp_path / "bad.nnet"
    path.write_text(text)
    with pytest.raises(PropertyError, match=message):
        files.load(path)


def test_the_header_of_an_nnet_comes_back(tmp_path):
    path = tmp_path / "net.nnet"
    path.write_text(nnet_of(*BODY).replace("0,0,\n1,1,", "0.5,7.25,\n2,373.9,"))
    network = files.load(path)
    with torch.no_grad():
        network[0].bias += 1
    again = files.load(files.save(network, tmp_path / "again.nnet"))
    assert torch.equal(again[0].bias, network[0].bias)
    assert again.scaling.means.tolist() == [0.5, 7.25]
    assert again.scaling.ranges.tolist() == [2, 373.9]


def test_shapes_of_an_onnx_that_do_not_fit_are_refused(tmp_path):
    import onnx

    path = files.save(
        nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), tmp_path / "net.onnx"
    )
    proto = onnx.load(str(path))
    proto.graph.initializer[2].dims[:] = [2, 4]
    proto.graph.initializer[2].raw_data = proto.graph.initializer[2].raw_data[: 2 * 4 * 4]
    onnx.save(proto, str(path))
    with pytest.raises(PropertyError, match=r"net\.onnx"):
        files.load(path)


def test_a_network_that_cannot_be_saved_is_refused_before_any_work(tmp_path):
    prop = Property.allowing("any", [0, 0], [1, 1], [1], outputs=2)
    network = nn.Sequential(nn.Linear(2, 4), nn.GELU(), nn.Linear(4, 2))
    with pytest.raises(PropertyError, match="a GELU cannot be written"):
        timm_repair.repair(network, prop, method="finetune", output_dir=tmp_path / "out")


@pytest.mark.parametrize(("package", "work"), [
    ("onnx", lambda path: files.save(nn.Sequential(nn.Linear(2, 2)), path / "net.onnx")),
    ("pymoo", lambda path: timm_repair.repair("any", "thing", method="birdnn_finetune")),
    ("pymoo", lambda path: timm_repair.repair("any", "thing", method="birdnn")),
    *(("pymoo", lambda path, name=name: timm_repair.repair("any", "thing", method=name))
      for name in ("arachne", "care", "neu_recover")),
])  # fmt: skip
def test_a_missing_package_is_named_before_any_work(package, work, tmp_path, monkeypatch):
    found = errors.find_spec
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(MissingPackageError, match=rf"{package}.*timm_repair\[properties\]"):
        work(tmp_path)
    assert not list(tmp_path.iterdir())
