"""LPIPS and Inception on random weights, against PyTorch where it is installed; and weights that do not fit."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import CheckpointError, SpecError
from tokjax.measure.features import Features
from tokjax.measure.inception import CLASSES, apply_inception, inception, inception_logits
from tokjax.measure.networks import load_state
from tokjax.measure.perceptual import backbone_features, feature_distance, lpips, lpips_params

WIDTHS = {
    "vgg16": {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256} | dict.fromkeys((17, 19, 21, 24, 26, 28), 512),
    "alexnet": {0: 64, 3: 192, 6: 384, 8: 256, 10: 256},
}  # fmt: skip
TAPS = {"vgg16": (2, 7, 14, 21, 28), "alexnet": (0, 3, 6, 8, 10)}
KERNELS = {"vgg16": {}, "alexnet": {0: 11, 3: 5}}


def weights(backbone, seed=0):
    """A random network in torchvision's layout and random heads in that of the lpips package."""
    generator = np.random.default_rng(seed)
    network, before = {}, 3
    for number, width in WIDTHS[backbone].items():
        kernel = KERNELS[backbone].get(number, 3)
        scale = np.sqrt(2 / (before * kernel**2))
        network[f"features.{number}.weight"] = scale * generator.standard_normal((width, before, kernel, kernel))
        network[f"features.{number}.bias"] = 0.1 * generator.standard_normal(width)
        before = width
    network["classifier.6.bias"] = np.zeros(1000)  # there, and of no use
    heads = {
        f"lin{i}.model.1.weight": generator.uniform(0, 1, (1, WIDTHS[backbone][tap], 1, 1))
        for i, tap in enumerate(TAPS[backbone])
    }
    return network, heads


def images(seed=0, side=64, count=2):
    return np.random.default_rng(seed).uniform(-1, 1, (count, side, side, 3)).astype(np.float32)


def torch_lpips(torch, backbone, network, heads, x, y):
    """The formula in PyTorch, layer by layer."""
    F = torch.nn.functional
    network, heads = ({k: torch.tensor(v, dtype=torch.float64) for k, v in d.items()} for d in (network, heads))
    shift, scale = (torch.tensor(v)[None, :, None, None] for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))

    def layers(z):
        z = (torch.tensor(z, dtype=torch.float64).permute(0, 3, 1, 2) - shift) / scale
        found = []
        for number in WIDTHS[backbone]:
            if backbone == "vgg16":
                z = F.max_pool2d(z, 2) if number in (5, 10, 17, 24) else z
                stride, padding = 1, 1
            else:
                z = F.max_pool2d(z, 3, 2) if number in (3, 6) else z
                stride, padding = (4, 2) if number == 0 else (1, 2 if number == 3 else 1)
            weight, bias = network[f"features.{number}.weight"], network[f"features.{number}.bias"]
            z = F.relu(F.conv2d(z, weight, bias, stride=stride, padding=padding))
            if number in TAPS[backbone]:
                found.append(z / (z.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    pairs = zip(layers(x), layers(y), strict=True)
    return sum(
        F.conv2d((a - b) ** 2, heads[f"lin{i}.model.1.weight"]).mean((1, 2, 3)) for i, (a, b) in enumerate(pairs)
    )


@pytest.mark.parametrize("backbone", ["vgg16", "alexnet"])
def test_lpips_agrees_with_pytorch(backbone):
    torch = pytest.importorskip("torch")
    network, heads = weights(backbone)
    x, y = images(0), images(1)
    expected = torch_lpips(torch, backbone, network, heads, x, y)
    found = jax.jit(lpips, static_argnums=0)(backbone, lpips_params(backbone, network, heads), x, y)
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32 over 13 layers against float64


def test_equal_images_are_at_zero_with_a_finite_gradient():
    params = lpips_params("alexnet", *weights("alexnet"))
    x = images()
    value, gradient = jax.jit(jax.value_and_grad(lambda y: lpips("alexnet", params, x, y).sum()))(x)
    assert value == pytest.approx(0.0, abs=1e-9) and np.isfinite(gradient).all()


def test_the_formula():
    """Opposite unit vectors differ by 4 (sum of squares), orthogonal ones by 2, whatever their length; 0 stays 0."""
    x = [jnp.array([[[[3.0, 0.0], [2.0, 0.0]]]])]
    y = [jnp.array([[[[-1.0, 0.0], [0.0, 5.0]]]])]
    assert float(feature_distance(x, y, [jnp.ones(2)])[0]) == pytest.approx((4 + 2) / 2)
    assert float(feature_distance(x, y, [jnp.array([0.5, 0.0])])[0]) == pytest.approx((2 + 0.5) / 2)
    dark = [jnp.zeros((1, 1, 2, 2))]
    value, gradient = jax.value_and_grad(lambda z: feature_distance([z], x, [jnp.ones(2)]).sum())(dark[0])
    assert value == pytest.approx(1.0) and np.isfinite(gradient).all()


@pytest.mark.parametrize(("backbone", "side"), [("vgg16", 16), ("alexnet", 31)])
def test_the_smallest_images(backbone, side):
    params = lpips_params(backbone, *weights(backbone))
    layers = jax.eval_shape(lambda x: backbone_features(backbone, params["network"], x), images(side=side))
    assert layers[-1].shape[1:3] == (1, 1)
    small = images(side=side - 1)
    with pytest.raises(SpecError, match=f"needs {side} a side"):
        lpips(backbone, params, small, small)


def test_layers_are_what_the_heads_expect():
    params = lpips_params("vgg16", *weights("vgg16"))
    shapes = jax.eval_shape(lambda x: backbone_features("vgg16", params["network"], x), images(side=32))
    assert [shape.shape for shape in shapes] == [
        (2, 32 >> i, 32 >> i, width) for i, width in enumerate((64, 128, 256, 512, 512))
    ]


def test_weights_that_do_not_fit_say_so():
    network, heads = weights("alexnet")
    with pytest.raises(SpecError, match="lack"):
        lpips_params("vgg16", network, heads)
    with pytest.raises(SpecError, match="Give its own heads"):
        lpips_params("alexnet", network, weights("vgg16")[1])
    with pytest.raises(SpecError, match="vgg16, alexnet"):
        lpips_params("resnet", network, heads)


def test_weights_come_from_files(tmp_path):
    network, _ = weights("alexnet")
    np.savez(tmp_path / "net.npz", **network)
    found = load_state(tmp_path / "net.npz")
    assert found.keys() == network.keys()
    np.testing.assert_array_equal(found["features.0.bias"], network["features.0.bias"])
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    (tmp_path / "net.h5").write_bytes(b"")
    for name, match in (("bad.npz", "cannot be read"), ("net.h5", "no known kind"), ("none.pth", "no such file")):
        with pytest.raises(CheckpointError, match=match):
            load_state(tmp_path / name)


def test_pytorch_files_are_read_and_what_they_could_run_is_not(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.arange(3.0)}, tmp_path / "a.pth")
    np.testing.assert_array_equal(load_state(tmp_path / "a.pth")["a"], [0.0, 1.0, 2.0])
    torch.save({"a": types.SimpleNamespace()}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="no plain state dict"):
        load_state(tmp_path / "b.pth")


def test_without_torch_its_files_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "a.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"convert the file to \.npz"):
        load_state(tmp_path / "a.pth")


def inception_state(torchvision, torch):
    """Random weights of torchvision's network, with statistics that keep its signal alive through 90 layers."""
    torch.manual_seed(0)
    network = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False, num_classes=CLASSES)
    with torch.no_grad():
        network.train()(torch.rand(8, 3, 128, 128) * 2 - 1)  # batch statistics, a tenth of the way
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.mul_(10)
                module.running_var.sub_(0.9).mul_(10).clamp_(min=1e-3)
    return network.eval()


@pytest.mark.slow
def test_inception_agrees_with_torchvision(monkeypatch):
    """Its network, with the two changes that the weights of FID were trained with."""
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    network = inception_state(torchvision, torch)
    blocks = torchvision.models.inception
    pools = types.SimpleNamespace(**vars(blocks.F))
    pools.avg_pool2d = functools.partial(blocks.F.avg_pool2d, count_include_pad=False)
    monkeypatch.setattr(blocks, "F", pools)
    network.Mixed_7c.register_forward_pre_hook(lambda *_: setattr(pools, "avg_pool2d", pools.max_pool2d))
    network.fc = torch.nn.Identity()
    x = images(side=299, count=2)
    with torch.no_grad():
        expected = network(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    state = {name: array.numpy() for name, array in network.state_dict().items()}
    state["fc.weight"] = np.random.default_rng(0).standard_normal((CLASSES, 2048)).astype(np.float32)
    features = inception(state)
    found = jax.jit(apply_inception)(features.params, x)
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())  # float32 over 48 layers
    assert inception_logits(features.params, found).shape == (2, CLASSES)
    with pytest.raises(SpecError, match="torchvision's own weights"):
        inception({**state, "fc.weight": np.zeros((1000, 2048))})
    with pytest.raises(SpecError, match=r"Mixed_7c.*absent"):
        inception({name: array for name, array in state.items() if not name.startswith("Mixed_7c")})


def test_inception_needs_its_weights_and_nothing_else_has_its_name():
    with pytest.raises(SpecError, match="absent"):
        inception({"fc.weight": np.zeros((CLASSES, 2048))})
    for name in ("inception", "FID", "kid"):
        with pytest.raises(SpecError, match=r"only measure\.inception"):
            Features(name=name, apply=lambda params, images: images.mean((1, 2)), params={})
