"""Every model: the published number of weights, its start, the shape of what it says, and a round on real data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from flare import algorithms, datasets, models, simulate
from flare import config as configuration
from flare.config import Run
from flare.datasets import shakespeare
from flare.datasets._fitting import fit, fitted
from flare.engine.layout import Layout
from flare.engine.task import Task
from flare.errors import ConfigError, DataError
from flare.models import gru
from flare.runs.train import _tensors, sample, train

IMAGES = {"fc": (1, 28, 28), "cnn": (1, 28, 28), "vgg11": (3, 32, 32), "vgg16": (3, 32, 32), "vgg19": (3, 32, 32)}
SMALL: dict[str, dict[str, Any]] = {
    "fc": {"width": 32},
    "cnn": {"filters": 4, "hidden": 16},
    "vgg11": {"filters": 4, "hidden": 16},
    "vgg16": {"filters": 4, "hidden": 16},
    "vgg19": {"filters": 4, "hidden": 16},
    "gru": {"embedding": 16, "hidden": 24},
}


def create(name: str, shape: tuple[int, ...] | None = None, seed: int = 1, **settings: Any) -> torch.nn.Module:
    shape = shape or IMAGES.get(name, (100,))
    return models.create(name, shape, 86 if name == "gru" else 10, models.load(name).Settings(**settings), seed)


def conv(size: int, before: int, after: int) -> int:
    return size * size * before * after + after


def dense(before: int, after: int) -> int:
    return before * after + after


VGG16_CONVOLUTIONS = (
    *(conv(3, 3, 64) + conv(3, 64, 64), conv(3, 64, 128) + conv(3, 128, 128)),
    conv(3, 128, 256) + 2 * conv(3, 256, 256),
    conv(3, 256, 512) + 2 * conv(3, 512, 512) + 3 * conv(3, 512, 512),
)
HEAD = dense(512, 4096) + dense(4096, 4096) + dense(4096, 10)


@pytest.mark.parametrize(
    ("name", "weights", "published"),
    [
        # 784-4069-4069-4069-10: 784*4069 + 4069, twice 4069*4069 + 4069, 4069*10 + 10
        ("fc", 3_190_096 + 4_069 + 2 * (16_556_761 + 4_069) + 40_690 + 10, 36_356_525),
        # 5*5*1*32 + 32, 5*5*32*64 + 64, 4*4*64*512 + 512, 512*10 + 10 (28 -> 24 -> 12 -> 8 -> 4)
        ("cnn", 832 + 51_264 + 524_800 + 5_130, 582_026),
        # 9,220,480, 14,714,688 and 20,024,384 are torchvision's convolutions; the head reads 512 numbers (32 -> 1).
        ("vgg11", 9_220_480 + 2_101_248 + 16_781_312 + 40_970, 28_144_010),
        ("vgg16", sum(VGG16_CONVOLUTIONS) + HEAD, 33_638_218),
        ("vgg19", 20_024_384 + HEAD, 38_947_914),
        # Embedding 86*256; three gates of 256 and 1024 inputs and two biases: Keras' 3,938,304; 1024*86 + 86.
        ("gru", 22_016 + 3 * 1024 * (256 + 1024 + 2) + 88_150, 4_048_470),
    ],
)
def test_number_of_weights(name: str, weights: int, published: int) -> None:
    assert weights == published
    with torch.device("meta"):
        assert sum(p.numel() for p in create(name).parameters()) == published


def test_torchvisions_convolutions() -> None:
    from torchvision.models import vgg11, vgg16, vgg19

    for name, definition in (("vgg11", vgg11), ("vgg16", vgg16), ("vgg19", vgg19)):
        with torch.device("meta"):
            theirs = [p.shape for p in definition().features.parameters()]
            ours = [p.shape for p in create(name).parameters()]
        assert ours[: len(theirs)] == theirs and len(ours) == len(theirs) + 6


def test_every_model_is_here_and_an_unknown_name_gets_the_nearest() -> None:
    assert models.names() == sorted(SMALL)
    assert {models.file(name) for name in models.names()} == {"fc", "cnn", "vgg", "gru"}
    with pytest.raises(ConfigError, match=r"model: 'vgg12' is unknown \(did you mean 'vgg1[169]'"):
        models.load("vgg12")


@pytest.mark.parametrize("name", models.names())
def test_start_and_output(name: str) -> None:
    state = torch.get_rng_state()
    model = create(name, **SMALL[name])
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone
    again, other = create(name, **SMALL[name]), create(name, seed=2, **SMALL[name])
    for (label, parameter), same, different in zip(
        model.named_parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(parameter, same)
        if parameter.dim() == 1:
            assert not parameter.any()
            continue
        assert not torch.equal(parameter, different)
        receptive = parameter[0][0].numel()
        variance = 2 / ((parameter.shape[0] + parameter.shape[1]) * receptive)
        if label == "embedding.weight":
            assert parameter.abs().max() <= 0.05 and parameter.std().item() == pytest.approx(0.1 / 12**0.5, rel=0.1)
        elif label == "recurrent.weight_hh_l0":
            assert torch.allclose(parameter.T @ parameter, torch.eye(24), atol=1e-5)
        else:
            assert parameter.std().item() == pytest.approx(variance**0.5, rel=0.3)
            limit = (3 * variance) ** 0.5  # of Glorot's uniform draw; of his normal one a twelfth is beyond it
            assert (parameter.abs().max().item() <= limit * 1.00001) == (name not in ("fc", "cnn"))
    if name == "gru":
        assert model(torch.randint(86, (3, 7))).shape == (3, 86, 7)
    else:
        assert model(torch.rand(3, *IMAGES[name])).shape == (3, 10)


def test_fc_is_linear() -> None:
    model = create("fc", width=16)
    one, two = torch.rand(2, 1, 28, 28).split(1)
    assert torch.allclose(model(one) + model(two), model(one + two), atol=1e-5)  # biases start at 0


def test_what_inputs_a_model_needs() -> None:
    assert create("cnn", (3, 16, 20), filters=2, hidden=4)(torch.rand(1, 3, 16, 20)).shape == (1, 10)
    assert create("vgg11", (1, 32, 70), filters=2, hidden=4)(torch.rand(1, 1, 32, 70)).shape == (1, 10)
    for name, shape, words in (
        ("cnn", (1, 8, 8), r"at least 16 x 16, not \(1, 8, 8\)"),
        ("vgg16", (3, 28, 28), r"at least 32 x 32, not \(3, 28, 28\); pad_to makes them so"),
        ("gru", (1, 8, 8), r"needs text"),
    ):
        with pytest.raises(ConfigError, match=words):
            create(name, shape)


@pytest.mark.parametrize(("name", "left_out"), [("vgg11", 3), ("vgg16", 0), ("vgg19", 0)])
def test_activations_that_the_authors_vgg11_lacks(name: str, left_out: int) -> None:
    family = models.load(name)
    kinds = {}
    for fidelity in ("paper", "authors"):
        model = models.create(name, (3, 32, 32), 10, family.Settings(filters=2, hidden=4), 1, fidelity)
        kinds[fidelity] = "".join(type(layer).__name__[0] for layer in model)  # C, R, M, F, L, D
    assert kinds["paper"].count("R") == kinds["paper"].count("C") + 2
    assert kinds["authors"].count("R") == kinds["paper"].count("R") - left_out
    assert kinds["paper"].endswith("MFLRDLRDL") and kinds["authors"].endswith("MFLRDLRDL")
    if left_out:
        assert kinds["authors"] == "CRMCRM" + 3 * "CCRM" + "FLRDLRDL"


def test_dropout_is_of_training_and_drawn_from_the_runs_seed() -> None:
    model = create("vgg11", filters=2, hidden=64)
    images = torch.rand(2, 3, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_entries_that_the_authors_send_of_the_paper_s_network() -> None:
    with torch.device("meta"):
        shapes = [(name, p.shape) for name, p in create("fc").named_parameters()]
    layout = Layout.of(shapes)
    update = torch.randn(layout.numel, generator=torch.Generator().manual_seed(0))
    assert list(layout.compress(update, 1e-5, "authors").counts) == [33, 1, 167, 1, 167, 1, 1, 1]
    # Ours: max(1, round(R * numel))
    assert list(layout.compress(update, 1e-5).counts) == [32, 1, 166, 1, 166, 1, 1, 1]


# Inputs fitted to a model


def test_fitting_by_hand() -> None:
    images = np.array([[[[1, 2], [3, 4]]]], np.uint8)
    out = fit(images, 5, 3)
    padded = [[0, 0, 0, 0, 0], [0, 1, 2, 0, 0], [0, 3, 4, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert out.tolist() == [[padded] * 3] and out.dtype == np.uint8
    assert fit(images, None, None) is images
    assert fitted((1, 28, 28), 32, 3) == (3, 32, 32) and fitted((100,), None, None) == (100,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pad_to": 20}, "pad_to: 20 is not allowed; at least 28"),
        ({"dataset": "cifar10", "channels": 4}, "channels: 4 is not allowed; a multiple of 3"),
        ({"model": "vgg11"}, r"at least 32 x 32, not \(1, 28, 28\)"),
        ({"model": "gru"}, "model: gru reads text, and the data set is numbers"),
        ({"dataset": "shakespeare"}, "model: fc reads numbers, and the data set is text"),
        ({"dataset": "shakespeare", "model": "gru", "pad_to": 32}, "pad_to: 32 is not allowed; .* are no images"),
        ({"sample_text": 10}, "sample_text: 10 is not allowed; the data set is no text"),
    ],
)
def test_a_misfit_is_said_before_any_job(changes: dict[str, Any], words: str) -> None:
    experiment = {
        **{"dataset": "fashion_mnist", "model": "fc", "clients": 2, "rounds": 1, "batch_size": 2},
        **{"learning_rate": 0.1, "seeds": [1], "methods": {"fedavg": {}}},
    }
    configuration.check({"experiments": {"e": experiment}})
    with pytest.raises(ConfigError, match=rf"experiments\.e\..*{words}") as caught:
        configuration.check({"experiments": {"e": experiment | changes}})
    assert "\n" not in str(caught.value)


# One round on real data


@pytest.fixture(scope="module")
def data(real_data: Path) -> Path:
    """Real data sets, which `run_of` gets."""
    return real_data


def run_of(name: str, data: Path, method: str = "fedavg", **changes: Any) -> Run:
    settings = SMALL[name] | ({"dropout": 0.0} if name.startswith("vgg") else {})
    fitting = {"pad_to": 32, "channels": 3} if name.startswith("vgg") else {}
    kept: dict[str, Any] = {
        **{"experiment": "e", "dataset": "fashion_mnist", "model": name, "model_settings": settings, "method": method},
        **{"keep": "dense" if method == "fedavg" else "1e-2", "local_epochs": 1, "seed": 1, "clients": 2, "rounds": 1},
        **{"batch_size": 20, "learning_rate": 0.05, "momentum": 0.5},
        **{"partition": {"scheme": "contiguous", "samples_per_client": 50}},
    }
    if name == "gru":
        kept |= {"dataset": "shakespeare", "batch_size": 64, "partition": {"scheme": "natural"}}
    try:
        datasets.fetch(kept["dataset"], data)
    except DataError as error:
        pytest.skip(str(error))
    return configuration.with_defaults(Run(**kept | fitting | changes))


@pytest.mark.parametrize("name", models.names())
def test_a_round_on_real_data_is_that_of_plain_pytorch(name: str, data: Path) -> None:
    run = run_of(name, data)
    clients, test = _tensors(run, data, datasets.load)
    test = (test[0][:150], test[1][:150])
    start = create(name, **run.model_settings)
    history, weights = simulate(
        *(start, clients),
        **{"test": test, "method": "fedavg", "keep": "dense", "rounds": 1, "local_epochs": 1},
        **{"batch_size": run.batch_size, "learning_rate": 0.05, "momentum": 0.5},
    )
    trained = []
    for inputs, targets in clients:
        local = copy.deepcopy(start).train()
        optimizer = torch.optim.SGD(local.parameters(), lr=0.05, momentum=0.5)
        for batch, wanted in zip(inputs.split(run.batch_size), targets.split(run.batch_size), strict=True):
            optimizer.zero_grad()
            cross_entropy(local(batch), wanted).backward()
            optimizer.step()
        trained.append(dict(local.named_parameters()))
    server = copy.deepcopy(start).eval()
    with torch.no_grad():
        for label, parameter in server.named_parameters():
            parameter.copy_(torch.stack([client[label] for client in trained]).mean(0))
            assert torch.allclose(weights[label], parameter, atol=2e-6), label
        outputs = server(test[0])
    assert any(not torch.equal(weights[label], p) for label, p in start.named_parameters())
    assert history["test_loss"].iloc[-1] == pytest.approx(float(cross_entropy(outputs, test[1])), abs=1e-5)
    right = (outputs.argmax(1) == test[1]).double().mean().item()  # of text: of the next characters
    assert history["test_accuracy"].iloc[-1] == pytest.approx(right, abs=2e-3)


@pytest.mark.parametrize("method", algorithms.names())
def test_the_gru_trains_with_every_method_without_a_warning(
    method: str, data: Path, recwarn: pytest.WarningsRecorder
) -> None:
    run = run_of("gru", data, method)
    clients, test = _tensors(run, data, datasets.load)
    history, _ = simulate(
        *(create("gru", **run.model_settings), [(inputs[:16], targets[:16]) for inputs, targets in clients]),
        **{"test": (test[0][:8], test[1][:8]), "method": method, "keep": "1e-2", "rounds": 2, "local_epochs": 1},
        **{"batch_size": 8, "learning_rate": 0.5, "momentum": 0.0, "shuffle": True},
    )
    assert history.attrs["status"] == "finished" and history["train_loss"].iloc[-1] < np.log(86) + 0.1
    assert not [str(warning.message) for warning in recwarn if "contiguous" in str(warning.message)]


def test_flare_can_leave_the_embedding_alone() -> None:
    method = algorithms.load("flare")
    layout = Layout.of([(name, p.shape) for name, p in create("gru", **SMALL["gru"]).named_parameters()])
    memory = torch.randn(layout.numel, generator=torch.Generator().manual_seed(3))
    start = torch.zeros(layout.numel)
    pulls = {}
    for part in ("none", "embedding"):
        settings = method.settings(tau=1.0, tau_decay=1.0, pull_steps="all", not_pulled=part)
        task = Task(0, (0,), (1,), (8,), None, 1, 8, 0.1, 0.0, False, "paper", layout, settings)
        pulled = method.pull(start, {"accumulator": memory}, task)
        gradient = torch.zeros(layout.numel)
        pulled[1](gradient, start.clone(), 0)
        pulls[part] = layout.views(gradient)
    for name, without in pulls["embedding"].items():
        if name == "embedding.weight":
            # Above the entry of rank round_half_even(1375 / 2) = 688 of 1376 there are 687.
            assert not without.any() and pulls["none"][name].abs().sum() == 687
        else:
            assert torch.equal(without, pulls["none"][name]) and without.any()


# A sample of text


def test_text_is_drawn_from_what_the_model_says() -> None:
    class Next(torch.nn.Module):
        """Says that the next character is the one after the last in the alphabet of three."""

        def __init__(self) -> None:
            super().__init__()
            self.sharpness = torch.nn.Parameter(torch.tensor(50.0))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            assert inputs.shape[1] <= 100
            return self.sharpness * torch.nn.functional.one_hot((inputs + 1) % 3, 3).transpose(1, 2).float()

    model = Next()
    assert gru.write(model, [0], 120, seed=5) == [(n + 1) % 3 for n in range(120)]
    with torch.no_grad():
        model.sharpness.fill_(0.0)  # now every character is as likely
    drawn = gru.write(model, [0], 600, seed=5)
    assert drawn == gru.write(model, [0], 600, seed=5) != gru.write(model, [0], 600, seed=6)
    assert np.bincount(drawn).tolist() == pytest.approx([200] * 3, abs=40)
    with torch.no_grad():
        model.sharpness.fill_(torch.nan)
    assert gru.write(model, [0], 600, seed=5) == []


def test_a_run_that_diverged_is_recorded_though_it_can_write_no_sample(data: Path, tmp_path: Path) -> None:
    run = run_of("gru", data, sample_text=30, clients=1, learning_rate=1e38, rounds=3)
    assert train(run, data=data, output=tmp_path, wandb="disabled")["status"] == "diverged"
    assert (tmp_path / "sample.txt").read_text() == "\n"


def test_a_run_leaves_its_sample(data: Path, tmp_path: Path) -> None:
    run = run_of("gru", data, sample_text=30, clients=1, learning_rate=1.0)
    state = torch.get_rng_state()
    for folder in ("one", "two"):
        train(run, data=data, output=tmp_path / folder, wandb="disabled")
    one, two = ((tmp_path / folder / "sample.txt").read_text() for folder in ("one", "two"))
    assert one == two and len(one) == 31 and set(one) <= set(shakespeare.VOCABULARY)
    assert torch.equal(torch.get_rng_state(), state)
    untrained = create("gru", **run.model_settings)
    assert sample(untrained, shakespeare.VOCABULARY, 30, run.seed) != one
