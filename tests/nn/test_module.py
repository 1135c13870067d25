"""Modules: what is registered where, state, modes, hooks, names, text."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import dagrun as dr
from dagrun import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(4, 2, bias=False))
        self.scale = nn.Parameter([2.0])
        self.register_buffer("seen", dr.zeros((), dtype="int64"))
        self.register_buffer("scratch", dr.zeros(2), persistent=False)

    def forward(self, x):
        return self.rest(self.first(x)) * self.scale


def names(pairs):
    return [name for name, _ in pairs]


def test_everything_is_found_by_name():
    net = Net()
    assert names(net.named_parameters()) == ["scale", "first.weight", "first.bias", "rest.1.weight"]
    assert names(net.named_buffers()) == ["seen", "scratch"]
    assert names(net.named_modules()) == ["", "first", "rest", "rest.0", "rest.1"]
    assert names(net.named_children()) == ["first", "rest"]
    assert list(net.state_dict()) == ["scale", "seen", "first.weight", "first.bias", "rest.1.weight"]
    assert names(net.named_parameters(recurse=False)) == ["scale"]
    assert names(net.named_parameters(prefix="net"))[0] == "net.scale"
    assert net.get_submodule("rest.1") is net.rest[1]
    with pytest.raises(AttributeError, match="no module 'nine'"):
        net.get_submodule("rest.nine")


def test_assignment_registers_replaces_and_deletes():
    net = Net()
    net.first = nn.Identity()
    assert names(net.named_parameters()) == ["scale", "rest.1.weight"]
    net.first = nn.Parameter(np.ones(2))  # from module to parameter
    assert "first" in dict(net.named_parameters()) and "first" not in dict(net.named_modules())
    net.first = None
    assert net.first is None and "first" not in dict(net.named_parameters())
    del net.scale
    with pytest.raises(AttributeError, match="'Net' has no attribute 'scale'"):
        _ = net.scale
    net.plain = dr.ones(2)  # no gradients asked for: an ordinary attribute
    assert "plain" not in net.state_dict()
    net.seen = dr.ones((), dtype="int64")
    assert net.state_dict()["seen"].item() == 1
    with pytest.raises(TypeError, match="no parameter"):
        net.first = 3
    with pytest.raises(TypeError, match="no buffer"):
        net.seen = "x"
    with pytest.raises(TypeError, match="no module"):
        net.rest = 3
    with pytest.raises(KeyError, match="exists already"):
        net.register_buffer("rest", dr.ones(1))
    with pytest.raises(KeyError, match="without dots"):
        net.register_parameter("a.b", None)
    with pytest.raises(ValueError, match="computed from other arrays"):
        net.register_parameter("computed", net.rest[1].weight * 2)


def test_an_attribute_set_too_early_is_told():
    class Early(nn.Module):
        def __init__(self):
            self.layer = nn.Identity()

    with pytest.raises(AttributeError, match=r"call super\(\).__init__\(\)"):
        Early()


def test_a_shared_parameter_is_one():
    tied = nn.ModuleDict({name: nn.Linear(3, 2, bias=False) for name in ("encoder", "decoder")})
    tied.decoder.weight = tied.encoder.weight
    assert names(tied.named_parameters()) == ["encoder.weight"]
    assert list(tied.state_dict()) == ["encoder.weight", "decoder.weight"]
    (tied.encoder(dr.ones((1, 3), dtype="float32")) @ tied.decoder.weight).sum().backward()
    assert tied.encoder.weight.grad is tied.decoder.weight.grad
    for other in (tied.to(dtype="float64"), copy.deepcopy(tied), pickle.loads(pickle.dumps(tied))):
        assert other.encoder.weight is other.decoder.weight and other.encoder.weight.requires_grad
        assert other.encoder.weight.is_leaf


def test_copied_layers_are_trained_by_an_optimizer():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    for module in (copy.deepcopy(layer), nn.TransformerEncoder(layer, 2)):
        optimizer = dr.optim.SGD(module.parameters(), lr=0.1)
        before = [p.numpy() for p in module.parameters()]
        (module(dr.random.randn(2, 3, 4, dtype="float32")) ** 3).sum().backward()
        optimizer.step()
        assert all((p.numpy() != old).any() for p, old in zip(module.parameters(), before, strict=True))


def test_state_is_loaded_in_place_or_not_at_all():
    net, other = Net(), Net()
    weight = net.first.weight
    state = {name: x.numpy() for name, x in other.state_dict().items()}
    assert net.load_state_dict(state) == ([], [])
    assert net.first.weight is weight and weight.requires_grad
    np.testing.assert_array_equal(weight.numpy(), other.first.weight.numpy())
    before = weight.numpy()
    wrong = {**state, "first.weight": before + 1, "first.bias": np.zeros(9), "other": np.zeros(1)}
    del wrong["scale"]
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(wrong)
    message = str(caught.value)
    assert "first.bias has shape (9,), expected (4,)" in message and "missing: scale" in message
    assert "unexpected: other" in message
    np.testing.assert_array_equal(weight.numpy(), before)  # nothing was copied
    del wrong["first.bias"]
    assert net.load_state_dict(wrong, strict=False) == (["scale", "first.bias"], ["other"])
    np.testing.assert_array_equal(weight.numpy(), before + 1)
    with pytest.raises(RuntimeError, match=r"has shape \(1,\)"):
        net.load_state_dict({"first.weight": np.zeros(1)}, strict=False)


def test_state_in_a_place_of_the_users_and_assigned():
    net, kept = Net(), {"before": dr.ones(1)}
    assert net.state_dict(kept, "net.") is kept and list(kept)[:2] == ["before", "net.scale"]
    assert net.state_dict(keep_vars=True)["scale"] is net.scale and not net.state_dict()["scale"].requires_grad
    shared = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    shared[1].weight = shared[0].weight
    wide = {name: np.full(x.shape, 2.0) for name, x in shared.state_dict().items()}
    shared.load_state_dict(wide, assign=True)
    assert shared[0].weight is shared[1].weight and shared[0].weight.requires_grad
    assert shared[0].weight.dtype == np.float64 and shared(dr.ones(2)).tolist() == [26, 26]


def test_modes_freezing_and_gradients():
    net = Net()
    assert not net.eval().training and not net.rest[0].training
    assert net.train().rest[1].training
    net.first.requires_grad_(False)
    net(dr.ones((2, 3), dtype="float32")).sum().backward()
    assert net.first.weight.grad is None and net.rest[1].weight.grad is not None
    assert "first.weight" in dict(net.named_parameters())  # frozen, and a parameter still
    net.zero_grad(set_to_none=False)
    assert not net.scale.grad.any()
    net.zero_grad()
    assert net.scale.grad is None
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "ReLU", "Linear", "Sequential", "Net"]


def test_to_moves_and_casts(device):
    net = Net().to(device, "float64")
    assert {str(x.device) for x in [*net.parameters(), *net.buffers()]} == {device}
    assert {x.dtype.name for x in net.parameters()} == {"float64"} and net.seen.dtype == np.int64
    assert all(x.requires_grad and x.is_leaf for x in net.parameters())
    net(dr.ones((1, 3), device=device)).sum().backward()
    assert net.float().scale.grad.dtype == np.float32
    assert net.to(np.float64).scale.dtype == np.float64
    assert net.to(device).scale is net.scale
    assert net.half().scale.dtype == np.float16 and net.double().scale.dtype == np.float64
    assert str(net.cpu().scale.device) == "cpu:0"


def test_hooks_see_and_change():
    layer, seen = nn.Linear(2, 2), []
    handle = layer.register_forward_hook(lambda m, inputs, y: seen.append((inputs[0].shape, y.shape)))
    doubled = layer.register_forward_hook(lambda m, inputs, y: y * 0)
    before = layer.register_forward_pre_hook(lambda m, inputs: (inputs[0][:1],))
    assert not layer(dr.ones((3, 2), dtype="float32")).any() and seen == [((1, 2), (1, 2))]
    for h in (handle, doubled, before):
        h.remove()
    assert layer(dr.ones((3, 2), dtype="float32")).shape == (3, 2) and len(seen) == 1


def test_hooks_with_options_and_in_front():
    class Scaled(nn.Module):
        def forward(self, x, factor=1.0):
            return x * factor

    layer, seen = Scaled(), []
    layer.register_forward_hook(lambda m, inputs, y: seen.append("last"))
    layer.register_forward_hook(
        lambda m, inputs, options, y: seen.append((options, y.item())), prepend=True, with_kwargs=True
    )
    layer.register_forward_pre_hook(lambda m, inputs, options: (inputs, {"factor": 3.0}), with_kwargs=True)
    first = layer.register_forward_pre_hook(lambda m, inputs: seen.append("first"), prepend=True)
    assert layer(dr.asarray(2.0), factor=5.0).item() == 6
    assert seen == ["first", ({"factor": 3.0}, 6.0), "last"]
    first.remove()
    layer(dr.asarray(2.0))
    assert seen.count("first") == 1


def test_paths_follow_the_modules_that_run():
    class Leaf(nn.Module):
        def forward(self, x):
            paths.append(nn.current_path())
            return x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([Leaf(), Leaf()])
            self.head = nn.Sequential(Leaf())

        def forward(self, x):
            for block in self.blocks:  # the list itself is never called
                x = block(x)
            paths.append(nn.current_path())
            return Leaf()(self.head(x))  # made on the way: its class stands for it

    paths: list[str] = []
    model = Model()
    model(dr.zeros(1))
    assert paths == ["Model.blocks.0", "Model.blocks.1", "Model", "Model.head.0", "Model.Leaf"]
    model.head.append(Leaf())
    paths.clear()
    copy.deepcopy(model)(dr.zeros(1))
    assert paths[3:5] == ["Model.head.0", "Model.head.1"] and nn.current_path() == ""
    model.blocks[0].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(dr.zeros(1))
    assert nn.current_path() == ""


def test_text():
    assert repr(Net()) == (
        "Net(\n  (first): Linear(in_features=3, out_features=4, bias=True)\n  (rest): Sequential(\n    (0): ReLU()\n"
        "    (1): Linear(in_features=4, out_features=2, bias=False)\n  )\n)"
    )


def test_containers():
    layers = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Tanh())
    assert [type(m).__name__ for m in layers[1:]] == ["ReLU", "Tanh"] and type(layers[-1]).__name__ == "Tanh"
    layers[1] = nn.SiLU()
    layers.insert(0, nn.Flatten())
    del layers[-1]
    assert [type(m).__name__ for m in layers] == ["Flatten", "Identity", "SiLU"] and len(layers) == 3
    with pytest.raises(IndexError, match="has 3 modules"):
        layers[3]
    named = nn.Sequential({"a": nn.Linear(1, 1), "b": nn.ReLU()})
    assert list(named.state_dict()) == ["a.weight", "a.bias"]
    table = nn.ModuleDict({"x": nn.Linear(1, 1)})
    table["y"] = nn.Identity()
    assert list(table.keys()) == ["x", "y"] and "x" in table and len(table) == 2
    del table["x"]
    assert not list(table.parameters())
    weights = nn.ParameterList([nn.Parameter([1.0]), np.ones(2)])
    assert list(weights.state_dict()) == ["0", "1"] and weights[1].requires_grad and len(list(weights)) == 2
    weights += [dr.ones(3)]
    weights[0] = np.zeros(4)
    assert [p.shape for p in weights[::2]] == [(4,), (3,)] and list(weights.state_dict()) == ["0", "1", "2"]
    names = nn.ParameterDict({"b": dr.ones(2), "a": nn.Parameter([1.0])})
    names["c"] = np.ones(3)
    assert list(names.state_dict()) == list(names) == ["b", "a", "c"] and len(names) == 3
    assert all(p.requires_grad for p in names.values()) and dict(names.items())["a"] is names["a"]
    assert names.pop("a").tolist() == [1] and "a" not in names and names.get("a") is None
    del names["b"]
    assert repr(names) == "ParameterDict((c): float64(3,) on cpu:0)"
    shared = nn.Linear(1, 1)
    both = nn.ModuleList([shared, shared])
    assert [name for name, _ in both.named_modules()] == ["", "0"]
    assert [name for name, _ in both.named_modules(remove_duplicate=False)] == ["", "0", "1"]
    assert len(nn.ModuleList()) == len(nn.ModuleDict()) == 0
    with pytest.raises(NotImplementedError, match="ModuleList defines no forward"):
        nn.ModuleList([nn.Identity()])(1)


def test_summary_counts_what_is_there():
    net = Net().train()
    result = nn.summary(net, (5, 3))
    rows = {row.name: row for row in result.rows}
    assert rows["first"].output_shape == (5, 4) and rows["first"].parameters == 16 and rows["first"].nbytes == 64
    assert rows["rest.1"].parameters == 8 and rows[""].parameters == 1
    assert result.parameters == 25 == sum(row.parameters for row in result.rows)
    assert result.nbytes == 25 * 4 + 8 + 16
    assert result.output_nbytes == (20 + 20 + 10) * 4
    assert net.training and not net._hooks and net.scale.grad is None


def test_errors_of_a_layer_name_the_users_line():
    layer = nn.Linear(2, 2)
    y = layer(dr.ones((1, 2), dtype="float32"))
    assert y.task.file == __file__
