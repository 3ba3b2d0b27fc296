"""The names of models, and how one is built so that its seed alone decides its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import nn

from hedgerow.errors import HedgerowError, ModelError
from hedgerow.models.conv import conv4, conv6
from hedgerow.models.layers import Builder, InputShape, Norm, initialise, standardise
from hedgerow.models.lenet import lenet5
from hedgerow.models.mlp import mlp
from hedgerow.models.mobilenet import mobilenetv2
from hedgerow.models.resnet import resnet18, resnet20
from hedgerow.models.standard import Statistics
from hedgerow.models.vgg import vgg11
from hedgerow.references import (
    current_directory_importable,
    is_reference,
    resolve_reference,
    unknown_name,
)

__all__ = ["build_model", "model_names"]

_BUILDERS: MappingProxyType[str, Builder] = MappingProxyType(
    {
        "mlp": mlp,
        "lenet5": lenet5,
        "conv4": conv4,
        "conv6": conv6,
        "resnet20": resnet20,
        "resnet18": resnet18,
        "vgg11": vgg11,
        "mobilenetv2": mobilenetv2,
    }
)


def model_names() -> tuple[str, ...]:
    """What `build_model` takes, besides ``package.module:function``.

    >>> model_names()
    ('mlp', 'lenet5', 'conv4', 'conv6', 'resnet20', 'resnet18', 'vgg11', 'mobilenetv2')
    """
    return tuple(_BUILDERS)


def build_model(
    name: str,
    *,
    input_shape: InputShape,
    classes: int,
    norm: Norm = "batch",
    statistics: Statistics = "kept",
    gain: float = 1.0,
    seed: int,
    hollow: bool = False,
) -> nn.Module:
    """Build a model on the CPU, in training mode, in float32.

    The same arguments give the same weights whatever was drawn before, and the global random state is left as it was.

    Args:
        name: one of `model_names()`, or ``package.module:function`` for the user's own, which is called as
            `function(input_shape, classes)` and returns an `nn.Module`. Its own layers and initialisation stand, so
            `norm` has no effect on it; PyTorch's generator is seeded while it runs. SynFlow can rescale it between
            layers if it is an `nn.Sequential` whose children are each other's only input, as all of ours are.
        input_shape: (C, H, W) of one image.
        classes: number of outputs.
        norm: batch normalisation after each convolution and hidden linear layer, standardised weights in it, or none.
        statistics: of standardised weights: which ones count once the layer is pruned.
        gain: of standardised weights: how large each output's start.
        seed: of all weights.
        hollow: a built-in model comes on torch's meta device, as shapes without any weight, and is not tried on images.
            Your own is built as ever.

    Raises:
        ModelError: unknown name, a builder that fails, or a model that does not turn (2, C, H, W) into (2, classes).
        ConfigError: ``package.module:function`` cannot be found.

    >>> model = build_model("mlp", input_shape=(1, 28, 28), classes=10, norm="none", seed=0)
    >>> sum(parameter.numel() for parameter in model.parameters())
    266610
    """
    if not is_reference(name) and name not in _BUILDERS:
        raise ModelError(unknown_name("model", found=name, allowed=model_names()))
    if len(input_shape) != 3 or min(input_shape) < 1 or classes < 1:
        raise ModelError(
            f"model {name!r} cannot have the input shape {input_shape} and {classes} classes; give (C, H, W) and a "
            f"number of classes, all at least 1"
        )
    if hollow and not is_reference(name):
        # Trying it on images would import SymPy, 80 MB; whoever fills it does so with what a whole one gave.
        with torch.device("meta"):
            model: nn.Module = _BUILDERS[name](input_shape, classes=classes, norm=norm)
        standardise(model, statistics=statistics, gain=gain)
        return model
    with _own_random_state(seed):
        if is_reference(name):
            model = _build_reference(name, input_shape=input_shape, classes=classes)
        else:
            model = _BUILDERS[name](input_shape, classes=classes, norm=norm)
            initialise(model, generator=torch.Generator().manual_seed(seed))
            standardise(model, statistics=statistics, gain=gain)
        _check_fit(model, name=name, input_shape=input_shape, classes=classes)
    return model


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    # Only the CPU's generator: asking an accelerator for its state would start it, which a forked worker may not do.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _build_reference(name: str, *, input_shape: InputShape, classes: int) -> nn.Module:
    function = resolve_reference(name)
    try:
        with current_directory_importable():
            model = function(input_shape, classes)
    except HedgerowError:
        raise
    except Exception as error:
        raise ModelError(
            f"{name!r} failed with {type(error).__name__}: {error}; it is called as function(input_shape, classes)"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name!r} returned a {type(model).__name__}; return a torch.nn.Module")
    return model


def _check_fit(model: nn.Module, *, name: str, input_shape: InputShape, classes: int) -> None:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # a batch of zeros must not enter the running statistics of a norm
    try:
        with torch.no_grad():
            output: object = model(torch.zeros(2, *input_shape))
    except Exception as error:
        raise ModelError(
            f"model {name!r} cannot process images of shape {input_shape} ({type(error).__name__}: {error}); choose "
            f"another model, or data of another size"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if found != (2, classes):
        raise ModelError(
            f"model {name!r} turns 2 images of shape {input_shape} into {found} where (2, {classes}) is needed; its "
            f"last layer must give one value a class"
        )
