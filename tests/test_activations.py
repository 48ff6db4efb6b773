"""Activation sheets: what is on them against sums written out, for any network; the command; a
sweep's runs.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Folder
from nets import Tiny
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from training import everything, finish, images, training, trial

from suite import models
from suite.activations import dead_figure
from suite.config import ModelConfig
from suite.core.errors import UsageError
from suite.core.records import Trial
from suite.execution.shared import SweepContext, TrialRequest
from suite.execution.worker import TrialRunner
from suite.storage.folder_storage import FolderStorage
from suite.training.hooks import TrainingHooks
from suite.visuals import activation_maps
from suite.visuals.activation_maps import (
    MARK,
    TRACKED_GREYS,
    TRACKED_WIDTH,
    dead_channels,
    example,
    find_dead,
    tiles,
    trace,
)


def build(arch: str) -> nn.Module:
    return models.build(ModelConfig(arch=arch), 10)


def noise(side: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))


def outputs(net: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """Name -> (C, H, W), other names included."""
    stages, names = trace(net, image)
    return {name: stages[index].output[0] for name, index in names.items()}


# ---- values --------------------------------------------------------------------------------------


def test_a_convolution_is_the_sum_written_out() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 2, padding=1, bias=False), nn.ReLU(inplace=True))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[[[1.0, -1.0], [0.0, 2.0]]]]))
    found = outputs(net, torch.tensor([[[1.0, 2.0, 0.0], [3.0, 1.0, 4.0]]]))
    padded = [[0, 0, 0, 0, 0], [0, 1, 2, 0, 0], [0, 3, 1, 4, 0], [0, 0, 0, 0, 0]]
    assert found["0.padding"].tolist() == [padded]
    by_hand = [
        [[p[y][x] - p[y][x + 1] + 2 * p[y + 1][x + 1] for x in range(4)] for y in range(3)]
        for p in [padded]
    ]
    assert found["0"].tolist() == by_hand, "the ReLU in place must not have changed it"
    assert found["1"].tolist() == [[[max(0, value) for value in row] for row in by_hand[0]]]


@pytest.mark.parametrize("arch", ["resnet18_cifar", "resnet18"])
def test_the_first_blocks_of_a_resnet_step_by_step(arch: str) -> None:
    net, image = build(arch), noise()
    found = outputs(net, image)
    net.eval()
    block = net.get_submodule("layer1.0")
    with torch.no_grad():
        x = net.conv1(image[None])
        assert torch.equal(found["conv1"], x[0])
        x = net.bn1(x)
        assert torch.equal(found["bn1"], x[0])
        x = F.relu(x)
        assert torch.equal(found["relu"], x[0])
        x = net.maxpool(x) if arch == "resnet18" else x
        first = F.relu(block.bn1(block.conv1(x)))
        assert torch.equal(found["layer1.0.relu"], first[0])
        second = block.conv2(first)
        assert torch.equal(found["layer1.0.conv2"], second[0])
        whole = F.relu(block.bn2(second) + x)
        assert torch.equal(found["layer1.0.relu:2"], whole[0]) and torch.equal(
            found["layer1.0"], whole[0]
        )


@pytest.mark.parametrize(
    "stem", [lambda x: x.relu(), torch.relu, F.relu, lambda x: x.relu_(), nn.ReLU(inplace=True)]
)
def test_every_way_to_call_a_relu_is_seen(stem: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            if isinstance(stem, nn.Module):
                self.relu = stem

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return (self.relu if hasattr(self, "relu") else stem)(x)

    found = outputs(Net(), noise(8))
    assert torch.equal(found["relu"], found["conv"].clamp(min=0)) and (found["conv"] < 0).any()


def test_tiles_go_from_black_to_white_each_on_its_own() -> None:
    grey = tiles(
        np.array(
            [
                [[-1.0, 0.0], [1.0, 3.0]],
                [[5.0, 5.0], [5.0, 10.0]],
                [[0, 0], [0, 0]],
                [[2, 2], [2, 2]],
            ]
        )
    )
    assert grey.tolist() == [
        [[0, 64], [128, 255]],
        [[0, 0], [0, 255]],
        [[0, 0], [0, 0]],
        [[128, 128], [128, 128]],
    ]
    assert tiles(np.array([[[0.0]], [[1.0]], [[4.0]]])).ravel().tolist() == [0, 64, 255], (
        "one pixel: over the layer"
    )


def test_the_network_and_the_random_states_are_left_as_they_were() -> None:
    net = Tiny(4)
    net.bn1.eval()
    modes = [module.training for module in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    drawn = torch.random.get_rng_state()
    activation_maps.draw(net, noise(8))
    dead_channels(net, noise(8)[None])
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


# ---- which layers, in which order ----------------------------------------------------------------

STUDY = [
    "input",
    "conv1.padding",
    "conv1",
    "bn1",
    "relu",
    "layer1.0.conv1",
    "layer1.0.relu",
    "layer1.0.conv2",
    "layer1.1",
    "layer2.0.relu:2",
    "layer4.0.conv2",
]


@pytest.mark.parametrize(
    ("arch", "shapes"),
    [
        ("resnet18_cifar", [(3, 32), (3, 34), *[(64, 32)] * 7, (128, 16), (512, 4)]),
        ("plain18_cifar", [(3, 32), (3, 34), *[(64, 32)] * 7, (128, 16), (512, 4)]),
        ("resnet18", [(3, 32), (3, 38), *[(64, 16)] * 3, *[(64, 8)] * 4, (128, 4), (512, 1)]),
    ],
)
def test_the_layers_of_the_study_in_its_order(arch: str, shapes: list[tuple[int, int]]) -> None:
    net = build(arch)
    found = activation_maps.draw(net, noise())
    assert [sheet.key for sheet in found] == STUDY
    assert [sheet.shape for sheet in found] == [(channels, side, side) for channels, side in shapes]
    names = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    counted = [name for name in names if not re.search(r"shortcut|downsample", name)]
    assert counted[14] == "layer4.0.conv2" and len(counted) == 17
    assert found[-1].title.startswith("layer4.0.conv2 · convolution 15 · 512 x ")


@pytest.mark.parametrize(
    ("arch", "side", "expected"),
    [
        ("resnet20", 32, ["layer1.1", "layer1.2.relu:2", "layer3.0.conv2"]),
        ("plain20", 32, ["layer1.1", "layer1.2.relu:2", "layer3.0.conv2"]),
        ("resnet50", 32, ["layer1.0.conv2", "layer1.1", "layer1.2.relu:3", "layer2.1.conv2"]),
        ("densenet121", 64, ["features.conv0", "features.norm0", "features.relu0",
                             "features.denseblock1.denselayer2",
                             "features.denseblock2.denselayer1.conv1"]),
        ("vgg11_bn", 32, ["features.0.padding", "features.1", "features.2", "features.8",
                          "features.10"]),
        ("mobilenet_v3_small", 32, ["features.0.2", "features.2"]),
        ("convnext_tiny", 32, ["features.0.0", "features.1.1.block.4"]),
        ("squeezenet1_1", 64, ["features.0", "features.9.expand1x1"]),
    ],
)  # fmt: skip
def test_other_networks_have_their_usual_layers_too(
    arch: str, side: int, expected: list[str]
) -> None:
    net = build(arch)
    found = [sheet.key for sheet in activation_maps.draw(net, noise(side), width=TRACKED_WIDTH)]
    assert found[0] == "input" and set(expected) <= set(found) and len(found) <= 12
    order = trace(net, noise(side))[1]
    assert [order[key] for key in found] == sorted(order[key] for key in found)


def test_channels_that_come_last_are_put_first() -> None:
    stages, names = trace(build("convnext_tiny"), noise())
    assert stages[names["features.1.1.block.4"]].output.shape == (1, 384, 8, 8)


def test_every_stage_of_any_network_can_be_asked_for() -> None:
    net = build("densenet121")
    every = activation_maps.draw(net, noise(64), ["all"], width=TRACKED_WIDTH)
    keys = [sheet.key for sheet in every]
    convolutions = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 120 and set(convolutions) <= set(keys)
    assert keys[-1] == "relu" and len(set(keys)) == len(keys)  # densenet's last ReLU is a function
    some = [
        sheet.key
        for sheet in activation_maps.draw(
            net, noise(64), ["features.denseblock1.denselayer2.*", "input"]
        )
    ]
    assert some[0] == "input" and len(some) == 7 and all("denselayer2" in key for key in some[1:])


def test_a_module_that_hands_on_what_it_was_given_is_shown_once() -> None:
    net = build("resnet18_cifar")
    assert [
        sheet.key
        for sheet in activation_maps.draw(net, noise(), ["layer1", "layer1.1", "layer1.1.relu:2"])
    ] == ["layer1"]


def test_an_unknown_layer_names_the_known_ones() -> None:
    with pytest.raises(
        UsageError,
        match=r"no layer 'layer1.0.conv9'(.|\n)*Did you mean 'layer1.0.conv[12]'(.|\n)*bn1",
    ):
        activation_maps.draw(build("resnet18_cifar"), noise(), ["layer1.0.conv9"])
    with pytest.raises(UsageError, match=r"Known: input, conv1\.padding"):
        activation_maps.draw(Tiny(4), noise(8), ["fc"])


# ---- dead channels -------------------------------------------------------------------------------


@pytest.fixture
def damaged() -> nn.Module:
    """A scratch ResNet-18 with three channels dead behind the stem and one in the first block."""
    net = build("resnet18_cifar")
    with torch.no_grad():
        net.bn1.bias[[1, 5, 63]] = -1e3
        net.get_submodule("layer1.0.bn1").bias[7] = -1e3
    return net


def test_dead_channels_are_counted_over_all_images(damaged: nn.Module) -> None:
    batch = torch.stack([noise(16, seed) for seed in range(5)])
    counts = dead_channels(damaged, batch, batch=2)
    assert list(counts)[:3] == ["relu", "layer1.0.relu", "layer1.0.relu:2"] and len(counts) == 17
    assert (
        counts["relu"] == (3, 64)
        and counts["layer1.0.relu"] == (1, 64)
        and counts["layer1.0.relu:2"] == (0, 64)
    )
    assert find_dead(damaged, batch.split(2)).shares["dead/relu"] == 3 / 64
    assert find_dead(damaged, batch.split(2)).images == 5


def test_a_channel_that_fires_on_one_image_is_alive() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.ReLU()
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        net[3].weight.zero_()
        net[3].bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    one = torch.ones(1, 1, 2, 2)
    assert dead_channels(net, one) == {"1": (1, 2), "4": (2, 3)}, "units of a head count too"
    assert dead_channels(net, torch.cat([one, -one])) == {"1": (0, 2), "4": (2, 3)}


def test_channels_that_fire_in_any_batch_are_alive() -> None:
    """Of two channels one fires in the first batch only, the other in the last only; a third
    never.
    """
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1, 1))
    bright, dark = torch.ones(2, 1, 2, 2), -torch.ones(2, 1, 2, 2)
    assert dead_channels(net, torch.cat([bright, dark]), batch=2) == {"1": (1, 3)}
    assert dead_channels(net, torch.cat([bright, torch.zeros(2, 1, 2, 2), dark]), batch=2) == {
        "1": (1, 3)
    }


def test_the_command_normalises_and_counts_over_the_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from suite import restore
    from suite.activations import activations
    from suite.config import TrialConfig
    from suite.data import Dataset
    from suite.models.trained import Normalised

    net = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 3, 1, 1))
    bright, dark = (np.full((20, 3, 4, 4), value, np.uint8) for value in (250, 5))
    labels = np.arange(20) % 2
    dataset = Dataset.of("own", ("a", "b"), (bright, labels), (dark, labels))
    config = TrialConfig.model_validate({"data": {"name": "own:load", "val_size": 4}})
    trained = SimpleNamespace(network=Normalised(net, [0.5] * 3, [0.25] * 3), side=4, epoch=3)
    known = SimpleNamespace(
        trained=lambda checkpoint: trained,
        dataset=lambda: dataset,
        config=config,
        run=SimpleNamespace(run_id="r"),
    )
    monkeypatch.setattr(restore, "restore", lambda uri, run: known)
    ramp = np.linspace(0, 255, 48).reshape(4, 4, 3).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "mine.png")
    list(activations("x", "r", tmp_path / "mine.png", ["1"], tmp_path / "out", log=False))
    facts = json.loads((tmp_path / "out" / "activations.json").read_text())
    assert facts["dead"] == {"1": [1, 2]}, (
        "the test images are dark, so what looks for light never fires"
    )
    shown = (torch.tensor(ramp.transpose(2, 0, 1)).float() / 255 - 0.5) / 0.25
    dead = find_dead(net, [(torch.tensor(dark).float() / 255 - 0.5) / 0.25])
    (sheet,) = activation_maps.draw(net, shown, ["1"], dead=dead)
    assert (tmp_path / "out" / "000-1.png").read_bytes() == sheet.png


def test_a_channel_that_fires_ever_so_little_is_alive() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.copy_(torch.tensor([1e-3, 0.0]))
    assert find_dead(net, [torch.zeros(2, 1, 2, 2)]).layers["1"].tolist() == [False, True]


def test_dead_tiles_are_crossed_out(damaged: nn.Module) -> None:
    dead = find_dead(damaged, [torch.stack([noise(16, seed) for seed in range(3)])])
    sheet = activation_maps.draw(damaged, noise(16), ["relu"], dead=dead)[0]
    assert sheet.marked == (1, 5, 63) and sheet.note == "3 of 64 never fire on 3 test images"
    image = Image.open(io.BytesIO(sheet.png))
    image.load()
    pixels = np.asarray(image.convert("RGB"))
    at = (pixels == np.array(MARK)).all(2)
    width = pixels.shape[1] // 8
    top = pixels.shape[0] - 8 * width
    shares = [at[top + y * width : top + (y + 1) * width, x * width : (x + 1) * width].mean()
              for y in range(8) for x in range(8)]  # fmt: skip
    assert [index for index, share in enumerate(shares) if share > 0.03] == [1, 5, 63]
    grey = np.asarray(image.convert("L"))
    assert 90 < grey[at].min() <= grey[at].max() < 160, "readable in grey"


def test_a_sheet_has_a_tile_for_each_channel() -> None:
    """Each tile is a flat grey, so they can be counted in the picture."""
    net = nn.Conv2d(3, 6, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.arange(18).view(6, 3, 1, 1) / 18)
    sheet = activation_maps.draw(nn.Sequential(net), torch.ones(3, 1, 1), ["0"])[0]
    grey = np.asarray(sheet.image.convert("L"))
    expected = tiles(
        trace(nn.Sequential(net), torch.ones(3, 1, 1))[0][-1].output[0].numpy()
    ).ravel()
    for index, value in enumerate(expected):  # three columns, two rows
        x = int((index % 3 + 0.5) / 3 * grey.shape[1])
        y = grey.shape[0] - int((1.5 - index // 3) / 2 * grey.shape[1] * 2 / 3)
        assert abs(int(grey[y, x]) - int(value)) <= 1
    assert "compared over the layer" in sheet.note


@pytest.mark.parametrize(
    ("arch", "side"), [("resnet18_cifar", 32), ("resnet18", 224), ("resnet50", 32)]
)
def test_the_sheets_of_a_trial_stay_small(arch: str, side: int) -> None:
    found = activation_maps.draw(build(arch), noise(side), width=TRACKED_WIDTH, greys=TRACKED_GREYS)
    assert sum(len(sheet.png) for sheet in found) < 300_000, "even of noise"
    assert all(max(sheet.image.size) < 450 for sheet in found)


def test_the_plot_by_depth_is_a_picture() -> None:
    for count in (1, 17, 120):
        image = Image.open(
            io.BytesIO(dead_figure({f"layer{n}": (n % 4, 8) for n in range(count)}, 100))
        )
        image.load()
        assert image.format == "PNG" and image.size[0] > 400
    assert dead_figure({}, 0)


def test_the_image_shown_is_the_first_car() -> None:
    labels = np.array([0, 2, 1, 2])
    assert example(labels, ["cat", "dog", "Automobile"]) == 1
    assert example(labels, ["cat", "car", "dog"]) == 2
    assert example(labels, ["cat", "dog", "bird"]) == 0


def test_files_sort_in_forward_order_and_only_earlier_sheets_are_replaced(tmp_path: Path) -> None:
    found = activation_maps.draw(Tiny(4), noise(8))
    (tmp_path / "mine.png").write_bytes(b"mine")
    names = activation_maps.save(tmp_path, found, None, image="x")
    assert names == sorted(names) and names[0] == "000-input.png"
    facts = json.loads((tmp_path / "activations.json").read_text())
    assert [sheet["layer"] for sheet in facts["sheets"]] == [sheet.key for sheet in found]
    assert activation_maps.save(tmp_path, found[:2], None) == names[:2]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *names[:2],
        "activations.json",
        "mine.png",
    ]


# ---- in a trial ----------------------------------------------------------------------------------


def test_drawing_changes_nothing_of_a_trial(tmp_path: Path) -> None:
    running = finish(training(trial(ema=0.9), tmp_path))
    running.finish()
    torch.manual_seed(5)
    before, drawn = everything(running), torch.random.get_rng_state()
    before = {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in before.items()
    }
    facts = running.draw_activation_maps()
    after = everything(running)
    assert all(
        torch.equal(v, after[k]) if isinstance(v, Tensor) else v == after[k]
        for k, v in before.items()
    )
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert facts["step"] == running.state.best["epoch"] and set(facts["metrics"]) == {
        "dead/relu",
        "dead/relu:2",
    }
    folder = tmp_path / "activations"
    assert sorted(path.name for path in folder.iterdir()) == [*facts["files"], "activations.json"]
    content = {name: (folder / name).read_bytes() for name in facts["files"]}
    running.draw_activation_maps()
    assert {name: (folder / name).read_bytes() for name in facts["files"]} == content


def test_the_sheets_show_the_best_epoch_not_the_last(tmp_path: Path) -> None:
    running = finish(training(trial(), tmp_path))
    running.draw_activation_maps()
    best = (tmp_path / "activations" / "002-conv1.png").read_bytes()
    with torch.no_grad():
        for parameter in running.model.parameters():
            parameter.zero_()
    running.draw_activation_maps()
    assert (tmp_path / "activations" / "002-conv1.png").read_bytes() == best


class _Drawing:
    """A training that is over."""

    complete, records, epoch = True, (), 2

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def finish(self) -> dict[str, Any]:
        return {"files": {"best.pt": "digest"}}

    def draw_activation_maps(self) -> dict[str, Any]:
        if self.error:
            raise self.error
        return {"key": "activations", "files": []}


def ends(tmp_path: Path, drawing: _Drawing, **options: Any) -> list[str]:
    """Kinds of outcomes at the end of a trial."""
    (tmp_path / "launch").write_text("token")
    given = {"activations": True, "limit_batches": None} | options
    shared = SweepContext(
        FolderStorage(tmp_path),
        "token",
        {},
        {},
        objective=None,
        numerics=None,
        search_path=(),
        **given,  # type: ignore[arg-type]
    )
    member = TrialRunner(shared, TrialRequest(Trial("t", "a", 0, "a"), "data", None, 2))
    member.training = drawing
    return [type(event).__name__.removesuffix("Event").lower() for event in member.advance()]


def test_only_finished_trials_of_real_sweeps_draw_and_failing_to_is_a_warning(
    tmp_path: Path,
) -> None:
    assert ends(tmp_path, _Drawing()) == ["images", "end"]
    assert ends(tmp_path, _Drawing(), activations=False) == ["end"]
    assert ends(tmp_path, _Drawing(), limit_batches=2) == ["end"]
    assert ends(tmp_path, _Drawing(ValueError("the user's own hook"))) == ["warning", "end"]


def test_a_stop_ends_the_drawing(tmp_path: Path) -> None:
    running = finish(training(trial(), tmp_path, images()))
    running.hooks = TrainingHooks(should_stop=lambda: True)
    with pytest.raises(InterruptedError):
        running.draw_activation_maps()


# ---- the command, and a sweep --------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("drawn"))
    folder.write(resources={"cpu": 1, "pack": 2}, checkpoints={"keep": 1})
    folder.sweep()
    return folder


def shown(folder: Folder, run: str, key: str = "activations") -> list[str]:
    """Names of the images that a run shows, by step."""
    found = [
        path.name for path in folder.path.glob(f"mlartifacts/*/{run}/artifacts/images/{key}+*.png")
    ]
    return sorted(found, key=lambda name: int(name.split("+")[2]))


def run_of(folder: Folder, name: str) -> str:
    return str(folder.query("select run_uuid from runs where name = ?", name)[0][0])


@pytest.mark.slow
def test_each_run_of_a_sweep_shows_its_sheets(done: Folder) -> None:
    names = list(done.runs())
    assert len(names) == 4
    for name in names:
        run = run_of(done, name)
        files = shown(done, run)
        pattern = r"activations\+step\+(\d)\+timestamp\+\d{13}\+[0-9a-f-]{36}\.png"
        matches = [re.fullmatch(pattern, file) for file in files]
        assert [int(match[1]) for match in matches if match] == list(range(5)), (
            "as mlflow.log_image names them"
        )
        for file in files:
            assert (
                done.path / f"mlartifacts/tiny/{run}/artifacts/images/{file[:-4]}+compressed.webp"
            ).exists()
        assert done.query(
            "select value from tags where run_uuid = ? and key = 'mlflow.loggedImages'", run
        )
        facts = json.loads(
            (done.path / f"mlartifacts/tiny/{run}/artifacts/activations.json").read_text()
        )
        assert [sheet["layer"] for sheet in facts["sheets"]] == [
            "input",
            "conv1.padding",
            "conv1",
            "bn1",
            "relu",
        ]
        assert facts["dead"]["relu"][1] == 8 and facts["dead_over_images"] > 300
        best = done.query(
            "select value from tags where run_uuid = ? and key = 'suite.best_epoch'", run
        )[0][0]
        logged = done.query(
            "select step, value from metrics where run_uuid = ? and key = 'dead/relu'", run
        )
        assert logged == [(int(best), facts["dead"]["relu"][0] / 8)]
    inputs = {
        next(
            done.path.glob(f"mlartifacts/*/{run_of(done, name)}/artifacts/images/*step+0+*.png")
        ).read_bytes()
        for name in names
    }
    assert len(inputs) == 1, "the same image in every trial"
    done.assert_tracked()


@pytest.mark.slow
def test_launching_again_with_a_lost_cursor_doubles_no_image(done: Folder) -> None:
    before = {name: shown(done, run_of(done, name)) for name in done.runs()}
    next(done.path.glob("runs/*/tracking.json")).unlink()
    done.sweep()
    assert {name: shown(done, run_of(done, name)) for name in done.runs()} == before


@pytest.mark.slow
def test_the_command_replaces_the_images_of_a_run_and_doubles_nothing(done: Folder) -> None:
    run = str(
        done.query("select run_uuid from tags where key = 'suite.champion' and value = 'true'")[0][
            0
        ]
    )
    before = shown(done, run)
    first = done.run("models:/tiny@champion", module="suite.activations")
    assert first.returncode == 0, first.stderr
    assert (
        "5 sheets of test image 0 (9) at epoch" in first.stdout
        and f"logged to run {run}" in first.stdout
    )
    files = sorted(path.name for path in (done.path / "activations" / run).iterdir())
    assert files == [
        "000-input.png",
        "001-conv1.padding.png",
        "002-conv1.png",
        "003-bn1.png",
        "004-relu.png",
        "activations.json",
        "dead_channels.png",
    ]
    after = shown(done, run)
    assert len(after) == 5 and not set(after) & set(before), "the sweep's small ones gave way"
    assert len(shown(done, run, "dead_channels")) == 1
    again = done.run(run, module="suite.activations")
    assert (
        again.returncode == 0
        and shown(done, run) == after
        and len(shown(done, run, "dead_channels")) == 1
    )
    assert (
        len(done.query("select * from metrics where run_uuid = ? and key = 'dead/relu'", run)) == 1
    )


@pytest.mark.slow
@pytest.mark.full
def test_an_image_and_layers_of_ones_own(done: Folder) -> None:
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(done.path / "mine.png")
    run = str(
        done.query("select run_uuid from tags where key = 'suite.champion' and value = 'true'")[0][
            0
        ]
    )
    before = shown(done, run)
    drawn = done.run(
        run,
        "--image",
        "mine.png",
        "--layers",
        "bn*,input",
        "--layers",
        "relu",
        "--out",
        "out",
        "--no-log",
        module="suite.activations",
    )
    assert drawn.returncode == 0, drawn.stderr
    assert "3 sheets of mine.png" in drawn.stdout and "logged" not in drawn.stdout
    assert sorted(path.name for path in (done.path / "out").glob("0*.png")) == [
        "000-input.png", "001-bn1.png", "002-relu.png",
    ]  # fmt: skip
    assert shown(done, run) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ("models:/tiny@champion", "--layers", "conv7"),
            2,
            "no layer 'conv7' with channels of pixels",
        ),
        (
            ("models:/tiny@champion", "--image", "none.png"),
            2,
            "the image must be a file, got none.png",
        ),
        (
            ("models:/tiny@champion", "--image", "sweep.yaml"),
            6,
            "sweep.yaml cannot be shown: not an image",
        ),
        (("models:/tiny@champion", "--out", "sweep.yaml"), 2, "'sweep.yaml' is a file"),
        (("nope",), 2, "there is no run nope"),
    ],
)
def test_bad_input_is_told_without_a_traceback(
    done: Folder, arguments: tuple[str, ...], code: int, said: str
) -> None:
    refused = done.run(*arguments, module="suite.activations")
    assert (
        refused.returncode == code and said in refused.stderr and "Traceback" not in refused.stderr
    )


@pytest.mark.slow
@pytest.mark.full
def test_a_sweep_without_activations_draws_none(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write(activations=False, seeds=[0], parameters=None)
    folder.sweep()
    assert not any(entry["kind"] == "images" for entry in folder.journal)
    assert not [*folder.path.glob("mlartifacts/*/*/artifacts/images")]
