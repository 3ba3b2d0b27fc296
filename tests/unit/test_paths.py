"""The choice of path: measured once a machine, then always the same, whatever happens to what was kept."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hedgerow.native.library import status
from hedgerow.pruning import Mask, prunable_tensors
from hedgerow.sparse import KeptNetwork, PathChoice, cache_folder, choose_paths, paths, sparsify
from hedgerow.sparse.conversion import kernel_layers
from hedgerow.sparse.path_cache import remembered

pytestmark = pytest.mark.skipif(not status().available, reason=status().reason)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hedgerow" / "paths"


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding="same"),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(16 * 36, 3),
    )


def masked(model: nn.Module, *, density: float = 0.1) -> Mask:
    generator = torch.Generator().manual_seed(0)
    return Mask(
        {name: torch.rand(w.shape, generator=generator) < density for name, w in prunable_tensors(model).items()}
    )


def network_of(*, density: float = 0.1) -> KeptNetwork:
    model = small()
    return sparsify(model, masked(model, density=density))


def chosen(network: KeptNetwork, *, batch_size: int = 4) -> PathChoice:
    return choose_paths(network, (2, 6, 6), batch_size=batch_size, precision="fp32")


def paths_of(network: KeptNetwork) -> dict[str, str]:
    return {name: layer.path for name, layer in kernel_layers(network.module).items()}


def rewrite(folder: Path, **changes: Any) -> None:
    (file,) = folder.glob("*.json")
    content = json.loads(file.read_text())
    content["decision"] |= changes
    file.write_text(json.dumps(content))


def test_a_choice_is_measured_once_and_then_remembered(own_cache: Path) -> None:
    first, second = chosen(network_of()), chosen(network_of())
    assert (first.source, second.source) == ("measured", "remembered")
    assert first.step == second.step
    assert first.layers == second.layers
    assert len(list(own_cache.glob("*.json"))) == 1
    assert cache_folder() == own_cache


def test_what_is_remembered_decides_even_against_the_clock(own_cache: Path) -> None:
    chosen(network_of())
    for path in ("native", "dense"):
        rewrite(own_cache, paths=[path, path], chosen=path, step={"native": 1.0, "dense": 3.0})
        network = network_of()
        choice = chosen(network)
        assert set(paths_of(network).values()) == {path}
        assert choice.step_ratio == (3.0 if path == "native" else 1.0)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"decision": 3}',
        '{"decision": {"paths": ["native"], "layers": [null], "step": {"dense": 1}, "chosen": "dense"}}',
        '{"decision": {"paths": ["up", "down"], "layers": [null, null], "step": {"dense": 1}, "chosen": "dense"}}',
        '{"decision": {"paths": ["dense", "dense"], "layers": [null, null], "step": {"dense": 0}, "chosen": "dense"}}',
        '{"decision": {"paths": ["dense", "dense"], "layers": [null, null], "step": {"dense": 1}, "chosen": "best"}}',
    ],
)
def test_a_damaged_file_is_measured_again_and_replaced(own_cache: Path, content: str) -> None:
    chosen(network_of())
    (file,) = own_cache.glob("*.json")
    file.write_text(content)
    assert chosen(network_of()).source == "measured"
    assert chosen(network_of()).source == "remembered"


def test_densities_count_in_steps_of_a_quarter_of_a_power_of_two(own_cache: Path) -> None:
    sources = [chosen(network_of(density=d)).source for d in (0.1, 0.102, 0.2)]
    assert sources == ["measured", "remembered", "measured"]


def test_another_batch_size_or_precision_or_thread_count_is_another_choice(own_cache: Path) -> None:
    chosen(network_of())
    assert chosen(network_of(), batch_size=5).source == "measured"
    assert choose_paths(network_of(), (2, 6, 6), batch_size=4, precision="bf16").source == "measured"
    torch.set_num_threads(2)
    try:
        assert chosen(network_of()).source == "measured"
    finally:
        torch.set_num_threads(1)
    assert len(list(own_cache.glob("*.json"))) == 4


def test_without_a_place_to_keep_it_density_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for density, path in ((0.1, "native"), (0.6, "dense")):
        network = network_of(density=density)
        choice = chosen(network)
        assert (choice.source, choice.step_ratio) == ("rule", None)
        assert set(paths_of(network).values()) == {path}
        assert "by density" in choice.lines()[0]


def test_measuring_leaves_no_trace_but_the_paths() -> None:
    network = network_of()
    network.module.eval()
    before = {name: t.clone() for name, t in network.module.state_dict().items()}
    state = torch.get_rng_state()
    assert chosen(network).source == "measured"
    after = network.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(t, after[name]) for name, t in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in network.module.parameters())
    assert not any(m.training for m in network.module.modules())
    assert not any(m._forward_pre_hooks for m in network.module.modules())


def test_the_record_says_all_layers_with_their_figures_and_what_stays_dense() -> None:
    network = network_of()
    choice = chosen(network)
    record = json.loads(json.dumps(choice.as_record()))
    assert [layer["name"] for layer in record["layers"]] == ["0", "3", "6"]
    assert record["layers"][1]["path"] == "unconverted"
    assert record["layers"][0]["native_seconds"] > 0
    assert record["layers"][0]["dense_seconds"] > 0
    assert record["layers"][0]["kept"] == network.kept[0].numel()
    assert set(record["step"]) == {"native", "dense", "mixed", "chosen"}
    assert record["step"]["native"] > 0
    assert record["native_share"] == choice.native_share == network.native_share()
    assert record["machine"]["threads"] == 1
    assert record["unconverted"] == ["3: Conv2d with its settings has no kernel"]
    assert choice.lines()[-1] == "no native kernels for 3: Conv2d with its settings has no kernel"


def test_the_slower_path_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, dense, expected in ((1.0, 2.0, "native"), (2.0, 1.0, "dense"), (1.01, 1.0, "native")):
        monkeypatch.setattr(paths, "step_seconds", lambda *_, n=native, d=dense, **__: {"native": n, "dense": d})
        monkeypatch.setattr(paths, "layer_seconds", lambda *_, **__: (1.0, 1.0, 0.0))
        network = network_of(density=0.1 * native + 0.2 * dense)
        assert chosen(network).chosen == expected
        assert set(paths_of(network).values()) == {expected}


def test_single_layers_stay_dense_where_that_makes_the_step_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(1.0, 2.0, 0.1), (2.0, 1.0, 0.1)])
    monkeypatch.setattr(paths, "layer_seconds", lambda *_, **__: next(times))
    monkeypatch.setattr(paths, "step_seconds", lambda *a, **_: {name: {"mixed": 1.0}.get(name, 2.0) for name in a[2]})
    network = network_of()
    choice = chosen(network)
    assert paths_of(network) == {"0": "native", "6": "dense"}
    assert choice.lines()[1] == "6 stays dense: 1000.00 ms against 2000.00 ms by native kernels"
    assert choice.step_ratio == 2.0


def test_networks_without_kernels_have_nothing_to_choose() -> None:
    model = small()
    network = sparsify(model, masked(model), kernels="dense")
    choice = chosen(network)
    assert choice.source == "only"
    assert choice.native_share == 0


def _decide(number: int) -> list[int]:
    found = remembered({"key": 1}, read=lambda value: [int(value)], measure=lambda: number)
    assert found is not None
    return found[0]


def test_many_that_ask_at_once_agree() -> None:
    with multiprocessing.get_context("fork").Pool(6) as pool:
        answers = pool.map(_decide, range(24))
    assert len({answer for (answer,) in answers}) == 1
