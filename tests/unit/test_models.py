"""Models have the sizes of their papers, fit small images, and depend on their seed alone."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from hedgerow.errors import ConfigError, ModelError
from hedgerow.models import Norm, build_model, model_names
from hedgerow.models.mobilenet import InvertedResidual
from hedgerow.models.resnet import PadShortcut

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 9, 14)]


def build(
    name: str, shape: tuple[int, int, int], *, norm: Norm = "batch", classes: int = 10, seed: int = 0
) -> nn.Module:
    return build_model(name, input_shape=shape, classes=classes, norm=norm, seed=seed)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "norm", "expected"),
    [
        # 784·300 + 300, 300·100 + 100, 100·10 + 10
        ("mlp", (1, 28, 28), "none", 266_610),
        # 6·25 + 6, 16·6·25 + 16, 400·120 + 120, 120·84 + 84, 84·10 + 10
        ("lenet5", (1, 28, 28), "none", 61_706),
        # the same with 6·3·25 + 6
        ("lenet5", (3, 32, 32), "none", 62_006),
        # convolutions 1,792 + 36,928 + 73,856 + 147,584; linear 8,192·256 + 256, 65,792, 2,570
        ("conv4", (3, 32, 32), "none", 2_425_930),
        # convolutions as above + 295,168 + 590,080; linear 4,096·256 + 256, 65,792, 2,570
        ("conv6", (3, 32, 32), "none", 2_262_602),
        # stem 432; 6·2,304; 4,608 + 5·9,216; 18,432 + 5·36,864; norms 2·(7·16 + 6·32 + 6·64); output 650
        ("resnet20", (3, 32, 32), "batch", 269_722),
        # as published for this stem, with 10 classes
        ("resnet18", (3, 32, 32), "batch", 11_173_962),
        # convolutions 1,728 + 73,728 + 294,912 + 589,824 + 1,179,648 + 3·2,359,296; norms 2·2,752; output 5,130
        ("vgg11", (3, 32, 32), "batch", 9_228_362),
        ("vgg11", (3, 32, 32), "none", 9_225_610),
        # torchvision's 3,504,872 with 1,000 classes, less 1,281,000 of its output, and 12,810 of this one
        ("mobilenetv2", (3, 32, 32), "batch", 2_236_682),
    ],
)
def test_the_number_of_parameters_is_the_published_one(
    name: str, shape: tuple[int, int, int], norm: Norm, expected: int
) -> None:
    assert parameters(build(name, shape, norm=norm)) == expected


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", model_names())
def test_images_become_one_value_a_class_and_every_parameter_gets_a_gradient(
    name: str, shape: tuple[int, int, int]
) -> None:
    model = build(name, shape, classes=7)
    assert model.training
    output = model(torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)))
    assert output.shape == (3, 7)
    assert output.dtype == torch.float32
    torch.autograd.backward(nn.functional.cross_entropy(output, torch.tensor([0, 3, 6])))
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", model_names())
def test_without_norms_there_are_biases_and_no_batch_norm(name: str) -> None:
    model = build(name, (1, 8, 8), norm="none")
    assert not any("norm" in type(module).__name__.lower() for module in model.modules())
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert all(layer.bias is not None for layer in layers)
    assert not list(model.buffers())


@pytest.mark.parametrize("name", model_names())
def test_with_norms_each_layer_but_the_last_has_one_and_no_bias(name: str) -> None:
    model = build(name, (1, 8, 8))
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == len(layers) - 1
    assert [layer.bias is None for layer in layers] == [True] * len(norms) + [False]


@pytest.mark.parametrize("name", model_names())
def test_the_outermost_module_is_a_chain_of_layers(name: str) -> None:
    model = build(name, (3, 8, 8)).eval()
    assert type(model) is nn.Sequential
    x = reference = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for child in model.children():
        x = child(x)
    torch.testing.assert_close(x, model(reference), rtol=0, atol=0)
    assert len(list(model.children())) >= 8  # SynFlow rescales between them


@pytest.mark.parametrize("name", model_names())
def test_synflow_reaches_every_kernel(name: str) -> None:
    # Not every weight: a max-pool passes on one of four. A ReLU that is capped would cut the flow of all.
    model = build(name, (1, 32, 32), norm="none").double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    torch.autograd.backward(model(torch.ones(1, 1, 32, 32, dtype=torch.float64)).sum())
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        kernels = parameter.grad.flatten(2).sum(2) if parameter.ndim == 4 else parameter.grad
        assert (kernels > 0).all(), key


@pytest.mark.parametrize("name", model_names())
def test_the_seed_alone_decides_the_weights_and_the_global_state_is_untouched(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(name, (1, 8, 8), seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(17)
    second, other = build(name, (1, 8, 8), seed=5), build(name, (1, 8, 8), seed=6)
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    weights = [key for key, value in first.named_parameters() if value.ndim > 1]
    assert weights
    for key in weights:
        assert not torch.equal(first.state_dict()[key], other.state_dict()[key]), key


def test_weights_have_the_variance_of_he_and_depthwise_filters_too() -> None:
    model = build("mobilenetv2", (3, 8, 8))
    for key, weight in model.named_parameters():
        if weight.ndim < 2 or weight.numel() < 3000:
            continue
        fan_in = weight[0].numel()
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.1), key
        if key.endswith("depthwise.weight"):
            assert fan_in == 9


def test_building_leaves_running_statistics_and_modes_as_new() -> None:
    model = build("resnet20", (1, 8, 8))
    for module in model.modules():
        assert module.training
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked is not None
            assert module.num_batches_tracked.item() == 0


def test_lenet_has_the_papers_maps_before_its_linear_layers() -> None:
    # 11 → 5 → 5 (padded) → 2, but 12 → 6 → 2 → 1
    for shape, features in (
        ((1, 28, 28), 400),
        ((1, 32, 32), 400),
        ((1, 8, 8), 64),
        ((1, 11, 11), 64),
        ((1, 12, 12), 16),
    ):
        weight = build("lenet5", shape).get_parameter("linear1.weight")
        assert weight.shape == (120, features)


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [
        ("resnet20", 32, (64, 8, 8)),
        ("resnet20", 8, (64, 2, 2)),
        ("resnet18", 32, (512, 4, 4)),
        ("resnet18", 8, (512, 1, 1)),
        ("vgg11", 32, (512, 1, 1)),
        ("vgg11", 8, (512, 1, 1)),
        ("mobilenetv2", 32, (1280, 4, 4)),
        ("mobilenetv2", 8, (1280, 1, 1)),
    ],
)
def test_the_last_map_has_the_papers_size(name: str, side: int, expected: tuple[int, int, int]) -> None:
    model = build(name, (3, side, side)).eval()
    x = torch.zeros(1, 3, side, side)
    for child_name, child in model.named_children():
        if child_name == "pool":
            break
        x = child(x)
    assert x.shape[1:] == expected


def test_mobilenet_adds_the_input_in_its_ten_blocks_of_one_shape() -> None:
    blocks = [module for module in build("mobilenetv2", (3, 8, 8)).modules() if isinstance(module, InvertedResidual)]
    assert len(blocks) == 10
    x = torch.randn(2, 24, 4, 4, generator=torch.Generator().manual_seed(0))
    block = blocks[0].eval()
    torch.testing.assert_close(block(x) - block.main(x), x)


def test_a_shortcut_of_option_a_takes_every_second_pixel_and_pads_channels_with_zeros() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    output = PadShortcut(stride=2, new_channels=1)(x)
    assert output.tolist() == [[[[0, 2], [6, 8]], [[0, 0], [0, 0]]]]


def test_resnet_20_has_no_parameters_in_its_shortcuts_and_resnet_18_has_three_projections() -> None:
    assert not [key for key in build("resnet20", (3, 8, 8)).state_dict() if "shortcut" in key]
    shortcuts = [key for key, _ in build("resnet18", (3, 8, 8)).named_parameters() if "shortcut.conv.weight" in key]
    assert len(shortcuts) == 3


def test_an_unknown_name_gets_the_closest_and_all_that_are_allowed() -> None:
    with pytest.raises(ModelError, match=r"'resnet21' \(did you mean 'resnet20'\?\).*mlp, lenet5, .*mobilenetv2"):
        build("resnet21", (1, 8, 8))


@pytest.mark.parametrize(("shape", "classes"), [((0, 8, 8), 10), ((1, 8, 8), 0), ((8, 8), 10)])
def test_shapes_without_meaning_are_refused(shape: tuple[int, int, int], classes: int) -> None:
    with pytest.raises(ModelError, match="cannot have the input shape"):
        build("mlp", shape, classes=classes)


OWN = """
import torch
from torch import nn

def good(input_shape, classes):
    import own_nets_helper  # only found while the current directory is importable
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes), nn.Dropout())

def frozen(input_shape, classes):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, classes))
    model[1].eval()
    return model

def wrong_input(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(63, classes))

def wrong_output(input_shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes + 1))

def pair(input_shape, classes):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x
    return Pair()

def no_module(input_shape, classes):
    return 3

def fails(input_shape, classes):
    raise KeyError("a key")

def needy():
    return None
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    (tmp_path / "own_nets_helper.py").write_text("")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("own")
def test_a_function_in_the_current_directory_builds_a_model_from_the_seed() -> None:
    before = torch.get_rng_state()
    first, second = build("own_nets:good", (1, 8, 8), seed=3), build("own_nets:good", (1, 8, 8), seed=3)
    assert torch.equal(first.get_parameter("1.weight"), second.get_parameter("1.weight"))
    other = build("own_nets:good", (1, 8, 8), seed=4)
    assert not torch.equal(first.get_parameter("1.weight"), other.get_parameter("1.weight"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("own")
def test_a_layer_that_the_user_froze_stays_frozen() -> None:
    model = build("own_nets:frozen", (1, 8, 8))
    assert [module.training for module in model.children()] == [True, False, True]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("wrong_input", r"cannot process images of shape \(1, 8, 8\) \(RuntimeError"),
        ("wrong_output", r"into \(2, 11\) where \(2, 10\) is needed"),
        ("pair", "into tuple where"),
        ("no_module", "returned a int"),
        ("fails", "failed with KeyError: 'a key'"),
        ("needy", r"failed with TypeError.*function\(input_shape, classes\)"),
    ],
)
def test_a_function_whose_model_does_not_fit_is_named(function: str, message: str) -> None:
    with pytest.raises(ModelError, match=f"own_nets:{function}.*{message}"):
        build(f"own_nets:{function}", (1, 8, 8))


def test_a_function_that_is_missing_is_a_matter_of_configuration() -> None:
    with pytest.raises(ConfigError, match="there is no module 'no_such_nets'"):
        build("no_such_nets:f", (1, 8, 8))


@pytest.mark.parametrize("name", model_names())
def test_a_hollow_model_has_the_same_tensors_and_no_memory(name: str) -> None:
    hollow = build_model(name, input_shape=(1, 28, 28), classes=10, seed=0, hollow=True)
    whole = build(name, (1, 28, 28))
    assert all(tensor.is_meta for tensor in (*hollow.parameters(), *hollow.buffers()))
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in (hollow, whole)]
    assert shapes[0] == shapes[1]
