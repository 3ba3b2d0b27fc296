"""The largest gradients at pruned positions: found in pieces, sent, averaged, and what the state is afterwards."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hedgerow.activations import Activations, Exact, Packed
from hedgerow.client.growth import GrowthBatch, growth_bytes, largest
from hedgerow.codec import Floats, Growth
from hedgerow.config import AggregationSettings, Experiment, SignSettings, WireSettings
from hedgerow.data import Dataset, Samples
from hedgerow.errors import PayloadError, TrainingError
from hedgerow.exchange import asked_counts, growth_of, growth_section, read_growth
from hedgerow.models import build_model
from hedgerow.native.library import status
from hedgerow.pruning import Mask, adjusted, prunable_tensors
from hedgerow.representation import Representation, Signs, Weights
from hedgerow.server.growth import GradientSum, grown_state
from hedgerow.sparse import (
    KeptNetwork,
    Kernels,
    TopK,
    float_tensors,
    largest_gradients,
    read_vector,
    scatter_kept,
    write_vector,
)
from hedgerow.telemetry.memory import allocation_peak
from hedgerow.v1 import payload_pb2 as pb

Found = dict[str, tuple[np.ndarray, np.ndarray]]

KERNELS: tuple[Kernels, ...] = ("dense", "native") if status().available else ("dense",)
SIGNS = Signs(settings=SignSettings(), aggregation=AggregationSettings())
EVERYTHING = 10**6


def found(**gradients: dict[int, float]) -> Found:
    return {
        name: (np.array(sorted(own), dtype=np.int64), np.array([own[p] for p in sorted(own)], dtype=np.float32))
        for name, own in gradients.items()
    }


def words(gradients: object) -> dict[str, dict[int, float]]:
    assert isinstance(gradients, dict)
    return {name: dict(zip(p.tolist(), v.tolist(), strict=True)) for name, (p, v) in gradients.items()}


def mask_of(**bits: str) -> Mask:
    return Mask({name: torch.tensor([bit == "1" for bit in own]) for name, own in bits.items()})


def random_mask(model: nn.Module, *, density: float = 0.4) -> Mask:
    generator = torch.Generator().manual_seed(0)
    return Mask(
        {name: torch.rand(w.shape, generator=generator) < density for name, w in prunable_tensors(model).items()}
    )


def filled(representation: Representation, model: nn.Module, mask: Mask, *, kernels: Kernels = "dense") -> KeptNetwork:
    network = representation.network(model, mask, kernels=kernels)
    write_vector(network.kept, np.random.default_rng(1).normal(size=mask.kept).astype(np.float32) * 0.3)
    return network


def dense_gradients(
    representation: Representation, model: nn.Module, mask: Mask, network: KeptNetwork, loss: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """By autograd on the dense network, 0 where a weight is kept."""
    dense = copy.deepcopy(model)
    scatter_kept(dense, mask, representation.kept_weights(read_vector(network.kept), model, mask))
    write_vector(float_tensors(dense), read_vector(network.floats))
    loss(dense).backward()  # type: ignore[no-untyped-call]  # torch does not type it
    gradients = {name: w.grad for name, w in prunable_tensors(dense).items()}
    return {name: g.masked_fill(mask[name], 0).flatten() for name, g in gradients.items() if g is not None}


class Twice(nn.Module):
    """One layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))  # type: ignore[no-any-return]  # modules return Any


class Changed(nn.Module):
    """The input of a layer is changed after it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.layer(x) + x.mul_(2)  # type: ignore[no-any-return]  # modules return Any


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (lambda: nn.Conv2d(3, 4, 3), (2, 3, 7, 6)),
    "stride and padding": (lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 3, 7, 6)),
    "dilation": (lambda: nn.Conv2d(3, 4, 3, padding=2, dilation=2, bias=False), (2, 3, 7, 6)),
    "groups": (lambda: nn.Conv2d(6, 9, 3, groups=3), (2, 6, 7, 6)),
    "depthwise": (lambda: nn.Conv2d(5, 5, 3, padding=1, groups=5), (2, 5, 7, 6)),
    "one image": (lambda: nn.Conv2d(3, 4, 3), (3, 7, 6)),
    "linear": (lambda: nn.Linear(5, 4), (3, 5)),
    "linear of sequences": (lambda: nn.Linear(5, 4, bias=False), (3, 2, 5)),
    "linear twice": (Twice, (3, 5)),
    "circular padding": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (2, 3, 7, 6)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), (2, 3, 9)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("representation", [Weights(), SIGNS], ids=["weights", "signs"])
@pytest.mark.parametrize("piece", [1, 7, 40, 1 << 16])
@pytest.mark.parametrize("kernels", KERNELS)
def test_gradients_in_pieces_are_those_of_the_dense_layer(
    name: str, representation: Representation, piece: int, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow.sparse.growth._PIECE", piece)
    monkeypatch.setattr("hedgerow.sparse.growth.NATIVE_PIECE", piece)
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    # A layer before it, so that it has a gradient to hand on, and a ReLU in place behind it.
    model = nn.Sequential(make(), nn.ReLU(inplace=True))
    mask, x = random_mask(model), torch.randn(shape)
    network = filled(representation, model, mask, kernels=kernels)
    few = 3
    result = largest_gradients(network.module, dict.fromkeys(mask, few), lambda: (network.module(x) ** 2).sum())
    dense = dense_gradients(representation, model, mask, network, lambda m: (m(x) ** 2).sum())
    for tensor, (positions, values) in result.items():
        assert (np.diff(positions) > 0).all()
        expected = dense[tensor].numpy()
        np.testing.assert_allclose(values, expected[positions], rtol=1e-4, atol=1e-5)
        most = np.sort(np.abs(expected))[::-1][:few]
        np.testing.assert_allclose(np.sort(np.abs(values))[::-1], most[most > 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("representation", [Weights(), SIGNS], ids=["weights", "signs"])
@pytest.mark.parametrize("name", ["conv4", "resnet18", "mobilenetv2"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_whole_networks_with_norms_have_the_gradients_of_the_dense_one(
    name: str, representation: Representation, kernels: Kernels
) -> None:
    model = build_model(name, input_shape=(1, 8, 8), classes=3, norm="batch", seed=0)
    mask = random_mask(model, density=0.2)
    network = filled(representation, model, mask, kernels=kernels)
    torch.manual_seed(0)
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    # With so few samples norms make much of rounding, the dense network's own as well.
    dense = dense_gradients(
        representation,
        model,
        mask,
        network,
        lambda m: nn.functional.cross_entropy(m.double().train()(images.double()), labels),
    )
    tensors = list(mask)
    counts = {tensors[i]: 50 for i in (0, len(tensors) // 2, -1)}
    result = largest_gradients(
        network.module, counts, lambda: nn.functional.cross_entropy(network.module(images), labels)
    )
    assert list(result) == list(counts)
    for tensor, (positions, values) in result.items():
        expected = dense[tensor].numpy()
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(values, expected[positions], rtol=4e-3, atol=4e-3 * scale)
        assert positions.size == min(50, int(np.count_nonzero(expected)))


@pytest.mark.parametrize("piece", [1, 7, 40, 1 << 16])
@pytest.mark.parametrize("name", ["conv", "groups", "linear"])
@pytest.mark.parametrize("kernels", KERNELS)
def test_relative_gradients_are_in_units_of_the_deviations_that_the_next_norm_divides_by(
    name: str, piece: int, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedgerow.sparse.growth._PIECE", piece)
    monkeypatch.setattr("hedgerow.sparse.growth.NATIVE_PIECE", piece)
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make()
    outputs = len(next(layer.parameters()))
    norm = nn.BatchNorm1d(outputs) if name == "linear" else nn.BatchNorm2d(outputs)
    model = nn.Sequential(layer, norm, nn.Flatten(), nn.LazyLinear(4), nn.ReLU())
    x = torch.randn(shape)
    model(x)
    bits = {tensor: mask.clone() for tensor, mask in random_mask(model).items()}
    # A channel that says nothing: its gradients are 1 / sqrt(eps) times those of an input of the norm.
    bits["0.weight"][1] = False
    mask = Mask(bits)
    network = filled(Weights(), model, mask, kernels=kernels)
    few = 5

    def loss(module: nn.Module) -> Tensor:
        return (module.train()(x) ** 2).sum()  # type: ignore[no-any-return]  # modules return Any

    counts = dict.fromkeys(mask, few)
    result = largest_gradients(network.module, counts, lambda: loss(network.module), relative=True)
    dense = dense_gradients(Weights(), model, mask, network, loss)
    out = network.module.get_submodule("0")(x).detach()
    deviations = (out.transpose(0, 1).reshape(outputs, -1).var(dim=1, correction=0) + norm.eps).sqrt()
    assert deviations[1] == pytest.approx(norm.eps**0.5)
    scaled = (dense["0.weight"].view(outputs, -1) * deviations[:, None]).flatten()
    for tensor, expected in (("0.weight", scaled.numpy()), ("3.weight", dense["3.weight"].numpy())):
        positions, values = result[tensor]
        np.testing.assert_allclose(values, expected[positions], rtol=1e-3, atol=1e-4)
        most = np.sort(np.abs(expected))[::-1][:few]
        np.testing.assert_allclose(np.sort(np.abs(values))[::-1], most, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_network_comes_out_as_it_went_in(kernels: Kernels) -> None:
    model = build_model("conv4", input_shape=(1, 8, 8), classes=3, norm="batch", seed=0)
    network = filled(Weights(), model, random_mask(model), kernels=kernels)
    network.module.eval()
    network.floats[0].requires_grad_(False)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    wanted = [p.requires_grad for p in network.module.parameters()]
    images = torch.randn(4, 1, 8, 8)
    counts = dict.fromkeys(random_mask(model), 5)
    largest_gradients(network.module, counts, lambda: (network.module(images) ** 2).mean(), relative=True)
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    assert [p.requires_grad for p in network.module.parameters()] == wanted
    assert all(p.grad is None for p in network.module.parameters())
    assert not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in network.module.modules())
    assert not any(getattr(m, "watch", None) for m in network.module.modules())


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_layer_that_keeps_everything_or_is_not_run_has_none(kernels: Kernels) -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole, self.skipped, self.run = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.run(self.whole(x))  # type: ignore[no-any-return]  # modules return Any

    torch.manual_seed(0)
    model, some = Skips(), torch.eye(3) > 0
    mask = Mask({"whole.weight": torch.ones(3, 3) > 0, "skipped.weight": some, "run.weight": some})
    network, x = filled(Weights(), model, mask, kernels=kernels), torch.randn(2, 3)
    result = largest_gradients(network.module, dict.fromkeys(mask, 4), lambda: (network.module(x) ** 2).mean())
    assert [positions.size for positions, _ in result.values()] == [0, 0, 4]


def test_a_gradient_of_nothing_is_not_among_the_largest() -> None:
    model = nn.Linear(3, 1)
    mask = Mask({"weight": torch.zeros(1, 3) > 0})
    network = Weights().network(model, mask, kernels="dense")
    x = torch.tensor([[2.0, 0.0, -3.0]])
    assert words(largest_gradients(network.module, {"weight": 3}, lambda: network.module(x).sum())) == {
        "weight": {0: 2.0, 2: -3.0}
    }


def test_a_loss_that_is_not_finite_is_refused() -> None:
    model = nn.Linear(3, 1)
    network = Weights().network(model, Mask({"weight": torch.zeros(1, 3) > 0}), kernels="dense")
    x = torch.tensor([[2.0, float("inf"), 1.0]])
    with pytest.raises(TrainingError, match="the loss became"):
        largest_gradients(network.module, {"weight": 3}, lambda: network.module(x).sum() * float("nan"))
    with pytest.raises(TrainingError, match="not finite though the loss is"):
        largest_gradients(network.module, {"weight": 3}, lambda: network.module(x).nan_to_num(0).sum())


@dataclass
class Recording:
    """Stores as `Exact` does, and remembers what."""

    shapes: list[torch.Size] = field(default_factory=list)

    def pack(self, x: Tensor) -> Packed:
        self.shapes.append(x.shape)
        return Exact().pack(x)

    def reseed(self, seed: int) -> None:
        """Draws nothing."""


@pytest.mark.parametrize("kernels", KERNELS)
def test_inputs_are_stored_as_in_training_behind_layers_that_are_not_asked_too(kernels: Kernels) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 2))
    storage = Recording()
    network = Weights().network(model, random_mask(model), kernels=kernels, storage=Activations(inputs=storage))
    images = torch.rand(8, 1, 8, 8)

    def stored(name: str) -> list[torch.Size]:
        storage.shapes.clear()
        largest_gradients(network.module, {name: 3}, lambda: network.module(images).sum())
        return list(storage.shapes)

    behind = stored("1.weight")
    assert behind[0] == torch.Size((8, 4, 6, 6))
    # The batch is the caller's.
    assert torch.Size((8, 1, 8, 8)) not in stored("0.weight") + behind


def test_an_input_that_is_changed_behind_a_layer_does_not_pass_unseen() -> None:
    model = Changed()
    network = filled(Weights(), model, random_mask(model))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        largest_gradients(network.module, {"layer.weight": 3}, lambda: network.module(torch.ones(2, 5)).sum())


def top(k: int, positions: np.ndarray, values: np.ndarray, *, sizes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    buffer, begin = TopK(k), 0
    for size in [*sizes, positions.size]:
        part = slice(begin, begin + size)
        buffer.add(torch.from_numpy(positions[part]), torch.from_numpy(values[part]))
        begin += size
    return buffer.result()


awkward = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e-45, -1e-45, float("inf"), 3.0])
any_float = st.floats(width=32, allow_nan=False)


@given(
    values=st.lists(awkward | any_float, max_size=60),
    k=st.integers(0, 40),
    sizes=st.lists(st.integers(0, 25), max_size=8),
    order=st.randoms(use_true_random=False),
)
@settings(max_examples=200)
@example(values=[1.0, -1.0] * 10, k=3, sizes=[1] * 20, order=None)
@example(values=[0.0, -0.0, 0.0], k=2, sizes=[1, 1, 1], order=None)
def test_the_buffer_has_the_exact_largest_however_they_come(
    values: list[float], k: int, sizes: list[int], order: object
) -> None:
    own = np.array(values, dtype=np.float32)
    places = np.arange(own.size)
    if order is not None:
        order.shuffle(shuffled := places.tolist())  # type: ignore[attr-defined]  # hypothesis does not name its type
        places = np.array(shuffled, dtype=np.int64)
    expected = np.sort(np.argsort(-np.abs(own), kind="stable")[:k])
    positions, largest_ones = top(k, places, own[places], sizes=sizes)
    assert positions.tolist() == expected.tolist()
    assert largest_ones.tobytes() == own[expected].tobytes()


def test_memory_grows_with_what_is_asked_for_and_not_with_the_layer() -> None:
    own = {}
    for width, count in ((256, 500), (2048, 500), (2048, 200_000)):
        model = nn.Linear(width, width)
        network = filled(Weights(), model, random_mask(model, density=0.05))
        images, labels = torch.zeros(8, width).uniform_(), torch.zeros(8, dtype=torch.int64)
        measured = growth_bytes(network, images, labels, counts={"weight": count})
        assert measured.whole >= measured.plain
        own[width, count] = measured.own
    # The dense gradients take 256 KiB and 16 MiB. A piece has 256 KiB.
    assert 2**18 < own[256, 500] < 2**20
    assert own[2048, 500] - own[256, 500] < 2**17
    assert own[2048, 200_000] > 200_000 * 8


@pytest.mark.skipif(not status().available, reason=status().reason)
def test_no_dense_weight_exists_where_native_kernels_compute() -> None:
    model = nn.Linear(1000, 4000)
    network = filled(Weights(), model, random_mask(model, density=0.01), kernels="native")
    x = torch.randn(2, 1000)
    _, peak = allocation_peak(
        lambda: largest_gradients(network.module, {"weight": 500}, lambda: network.module(x).sum())
    )
    assert peak < 4 * 1000 * 4000 / 4


def test_positions_travel_as_places_among_the_pruned() -> None:
    mask = mask_of(a="0101", b="11", c="100010")
    asked = (Growth(0, 1), Growth(2, 3))
    sent = growth_section(found(a={2: -1.5}, c={1: 2.0, 5: 0.5}), mask=mask, growth=asked, wire=WireSettings())
    # a's pruned weights are 0 and 2; c's are 1, 2, 3 and 5, of which the first and last are places 2 and 5 in all.
    assert (sent.kind, sent.count, sent.parameter, sent.codec) == (pb.KIND_TOP_K, 6, 3, pb.CODEC_FLOAT32)
    assert sent.data[-12:] == np.array([-1.5, 2.0, 0.5], dtype="<f4").tobytes()
    assert words(read_growth({sent.kind: sent}, mask=mask, growth=asked)) == {"a": {2: -1.5}, "c": {1: 2.0, 5: 0.5}}


def test_gradients_travel_in_bfloat16_where_replies_are_short() -> None:
    mask, asked = mask_of(a="0100"), (Growth(0, 2),)
    sent = growth_section(found(a={0: 1 + 2**-10, 3: 3001.0}), mask=mask, growth=asked, wire=WireSettings(up="int8"))
    assert sent.codec == pb.CODEC_BFLOAT16
    read = words(read_growth({sent.kind: sent}, mask=mask, growth=asked))
    assert read["a"][0] == 1.0
    assert read["a"][3] == 3008.0


@given(st.integers(0, 2**32), st.integers(1, 12))
@settings(max_examples=50)
def test_what_is_sent_comes_back(seed: int, tensors: int) -> None:
    drawn = np.random.default_rng(seed)
    mask = Mask(
        {f"l{i}": torch.from_numpy(drawn.random(drawn.integers(1, 40)) < drawn.random()) for i in range(tensors)}
    )
    pruned = {name: np.flatnonzero(~bits.numpy()) for name, bits in mask.items()}
    picked = {
        name: np.sort(drawn.choice(own, drawn.integers(1, own.size + 1), replace=False))
        for name, own in pruned.items()
        if own.size and drawn.random() < 0.7
    }
    said = {name: (own, drawn.normal(size=own.size).astype(np.float32)) for name, own in picked.items()}
    asked = growth_of({name: own.size for name, own in picked.items()}, mask=mask)
    sent = growth_section(said, mask=mask, growth=asked, wire=WireSettings())
    assert words(read_growth({sent.kind: sent}, mask=mask, growth=asked)) == words(said)


def test_more_gradients_of_a_tensor_than_asked_for_are_refused() -> None:
    mask = mask_of(a="1000", b="1000")
    sent = growth_section(
        found(a={1: 1.0, 2: 1.0}), mask=mask, growth=(Growth(0, 2), Growth(1, 1)), wire=WireSettings()
    )
    with pytest.raises(PayloadError, match="2 gradients of 'a'; 1 were asked for") as caught:
        read_growth({sent.kind: sent}, mask=mask, growth=(Growth(0, 1), Growth(1, 1)))
    assert caught.value.kind == "bounds"


@pytest.mark.parametrize(
    ("growth", "says"),
    [
        ((Growth(3, 1),), "tensor 3 is to be adjusted; there are 3"),
        ((Growth(0, 0),), "0 gradients of the 2 pruned weights of 'a'"),
        ((Growth(0, 3),), "3 gradients of the 2 pruned weights of 'a'"),
        ((Growth(1, 1),), "1 gradients of the 0 pruned weights of 'b'"),
        ((Growth(0, 1), Growth(0, 1)), "do not ascend"),
        ((Growth(2, 1), Growth(0, 1)), "do not ascend"),
        ((Growth(0, 2), Growth(2, 4)), "6 gradients of a network of 5 kept weights"),
    ],
)
def test_a_request_for_what_there_is_not_is_refused(growth: tuple[Growth, ...], says: str) -> None:
    mask = mask_of(a="0110", b="1", c="1100000")
    with pytest.raises(PayloadError, match=says) as caught:
        asked_counts(growth, mask=mask)
    assert caught.value.kind == "bounds"


def test_what_is_asked_for_can_be_read_back() -> None:
    mask = mask_of(a="0110", b="1", c="1100000")
    asked = growth_of({"c": 3, "a": 1, "b": 0}, mask=mask)
    assert asked == (Growth(0, 1), Growth(2, 3))
    assert asked_counts(asked, mask=mask) == {"a": 1, "c": 3}


def test_a_million_weights_are_quick() -> None:
    mask = Mask({"a": torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)) < 0.05})
    asked = (Growth(0, 10_000),)
    places = np.flatnonzero(~mask["a"].numpy())[::90][:10_000]
    sent = growth_section(
        {"a": (places, np.ones(places.size, dtype=np.float32))}, mask=mask, growth=asked, wire=WireSettings()
    )
    assert read_growth({sent.kind: sent}, mask=mask, growth=asked)["a"][0].tolist() == places.tolist()


def summed(mask: Mask, growth: tuple[Growth, ...], replies: list[tuple[Found, int]]) -> GradientSum:
    total = GradientSum(mask, growth)
    for said, weight in replies:
        total.check(said)
        total.add(said, weight=weight)
    return total


def test_who_says_nothing_of_a_weight_counts_as_0() -> None:
    mask = mask_of(a="1000", b="100")
    replies = [(found(a={1: 3.0, 2: 1.0}), 1), (found(a={1: -1.0}, b={2: 8.0}), 3), (found(), 4)]
    total = summed(mask, (Growth(0, 1), Growth(1, 1)), replies)
    # (3·1 - 1·3) / 8 is 0, and is left out.
    assert words(total.mean()) == {"a": {2: 0.125}, "b": {2: 3.0}}


def test_without_replies_there_are_no_gradients() -> None:
    assert words(summed(mask_of(a="10"), (Growth(0, 1),), []).mean()) == {"a": {}}


@given(st.lists(st.tuples(st.floats(-4000, 4000, width=32), st.integers(1, 2**24)), min_size=1, max_size=8))
@settings(max_examples=80)
def test_the_mean_does_not_depend_on_the_order_of_replies(drawn: list[tuple[float, int]]) -> None:
    mask, growth = mask_of(a="100"), (Growth(0, 1),)
    replies = [(found(a={1: value}), weight) for value, weight in drawn]
    first, second = summed(mask, growth, replies).mean(), summed(mask, growth, replies[::-1]).mean()
    assert words(first) == words(second)
    exact = sum(value * weight for value, weight in drawn) / sum(weight for _, weight in drawn)
    assert words(first)["a"].get(1, 0.0) == pytest.approx(exact, rel=1e-6, abs=1e-11)


@pytest.mark.parametrize(("value", "kind"), [(4096.0, "bounds"), (-1e30, "bounds"), (float("nan"), "not_finite")])
def test_gradients_that_cannot_be_summed_are_refused(value: float, kind: str) -> None:
    with pytest.raises(PayloadError, match="below 4096 is allowed") as caught:
        GradientSum(mask_of(a="10"), (Growth(0, 1),)).check(found(a={1: value}))
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("representation", "expected"),
    [(Weights(), [0.5, 0.0, 0.0, -0.75]), (SIGNS, [0.5, -0.2, 0.2, -0.75])],
    ids=["weights", "signs"],
)
def test_weights_grow_at_0_and_signs_against_the_gradient(
    representation: Representation, expected: list[float]
) -> None:
    mask = mask_of(a="1100", b="110")
    state = np.array([0.5, 0.25, 0.1, -0.75], dtype=np.float32)
    gradients = found(a={2: 0.25, 3: 1.0}, b={2: -3.0})
    after = adjusted(
        mask,
        scores=representation.drop_scores(state),
        gradients=gradients,
        goes={"a": 1, "b": 1},
        comes={"a": 1, "b": 1},
    )
    assert after == mask_of(a="1001", b="011")
    new = grown_state(state, mask=mask, new_mask=after, gradients=gradients, representation=representation)
    assert new.dtype == np.float32
    assert new.tolist() == pytest.approx([expected[0], expected[1], expected[3], expected[2]])


def test_a_mask_that_stays_leaves_the_state() -> None:
    mask = mask_of(a="1100")
    state = np.array([0.5, 0.25], dtype=np.float32)
    same = grown_state(state, mask=mask, new_mask=mask, gradients={}, representation=Weights())
    assert same.tolist() == state.tolist()


@pytest.mark.parametrize(
    ("representation", "says"),
    [
        (Weights(), 0.0),
        (Weights(wire=WireSettings(down="bf16")), 0.0),
        (Weights(wire=WireSettings(down="uniform")), 0.0),
        (SIGNS, 1 / 15),
        (Signs(settings=SignSettings(), aggregation=AggregationSettings(signs="vote")), 0.2),
    ],
)
def test_what_fills_a_base_is_what_is_published_of_0(representation: Representation, says: float) -> None:
    filler = representation.filler()
    assert filler.shape == (1,)
    assert filler.dtype == representation.publish(np.ones(3, dtype=np.float32), layers=[3]).dtype
    assert representation.start(filler).tolist() == pytest.approx([says])


def small_dataset() -> Dataset:
    drawn = np.random.default_rng(0)
    images = drawn.integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    samples = Samples(images, np.arange(20, dtype=np.int64) % 3)
    return Dataset("drawn", classes=3, train=samples, test=samples, mean=(0.5,), std=(0.25,))


def answered(experiment: Experiment, *, growth: tuple[Growth, ...], mask: Mask, kept: Floats, round: int = 1) -> bytes:
    data = small_dataset()
    model = build_model("conv4", input_shape=(1, 8, 8), classes=3, norm="batch", seed=0)
    network = Weights().network(model, mask)
    write_vector(network.kept, kept)
    write_vector(network.floats, read_vector(float_tensors(model)))
    batch = GrowthBatch.of(data.train, dataset=data, experiment=experiment, round=round, client=0)
    found = largest(network, mask, growth=growth, batch=batch, experiment=experiment)
    return found.section.data


def test_a_device_answers_the_same_for_the_same_round_and_other_samples_in_another() -> None:
    model = build_model("conv4", input_shape=(1, 8, 8), classes=3, norm="batch", seed=0)
    mask = random_mask(model)
    kept = np.random.default_rng(0).normal(size=mask.kept).astype(np.float32) * 0.1
    growth = growth_of(dict.fromkeys(list(mask)[-2:], 20), mask=mask)
    experiment = Experiment.model_validate({"representation": "weights", "training": {"batch_size": 8}})
    first = answered(experiment, growth=growth, mask=mask, kept=kept)
    assert answered(experiment, growth=growth, mask=mask, kept=kept) == first
    assert answered(experiment, growth=growth, mask=mask, kept=kept, round=2) != first
    with pytest.raises(PayloadError, match="do not ascend"):
        answered(experiment, growth=growth[::-1], mask=mask, kept=kept)


def test_a_device_looks_at_as_many_samples_as_it_is_told() -> None:
    model = build_model("conv4", input_shape=(1, 8, 8), classes=3, norm="batch", seed=0)
    mask = random_mask(model)
    kept = np.random.default_rng(0).normal(size=mask.kept).astype(np.float32) * 0.1
    asked = growth_of({list(mask)[-1]: 20}, mask=mask)
    several = {}
    for size in (19, 20, 100):
        experiment = Experiment.model_validate({"adjustment": {"batch_size": size}})
        several[size] = [answered(experiment, growth=asked, mask=mask, kept=kept, round=round) for round in (1, 2)]
    # All 20 samples are the same in every round, but for their order and so for rounding; 19 of them are not.
    values = {size: [np.frombuffer(data[-80:], dtype="<f4") for data in both] for size, both in several.items()}
    assert several[100] == several[20]
    np.testing.assert_allclose(values[20][0], values[20][1], rtol=1e-3)
    assert not np.allclose(values[19][0], values[19][1], rtol=1e-2)
