"""The nets of the tutorials that look at pictures: their arithmetic, and that they learn."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from made_data import save_image, write_all
from torch import nn

MODELS = Path(__file__).parents[1] / "tutorials/models"
SCRIPTS = ("classification", "segmentation")
RESNET_OF_THE_PAPER = 11_689_512
ALEXNET_IN_ONE_TOWER = 62_378_344


def module(name: str) -> Any:
    """A module of the tutorials, which import each other as scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(MODELS))
        return importlib.import_module(name)


frame, vision, classification, segmentation = map(module, ("_script", "_vision", *SCRIPTS))


class Script:
    """Runs a script in this process, where a warning is an error."""

    def __init__(self, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        patch.delenv("ESTIMATOR_DATA", raising=False)
        self.patch, self.capsys = patch, capsys
        self.message: object = None

    def __call__(self, name: str, *arguments: str) -> list[dict[str, str]]:
        """The rows of the table that it prints."""
        self.patch.setattr("sys.argv", [f"{name}.py", *arguments])
        self.message = None
        try:
            frame.run(module(name).main)
        except SystemExit as end:
            self.message = end.code
        lines = [line for line in self.capsys.readouterr().out.splitlines() if line[:1] == "|"]
        cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
        return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    return Script(monkeypatch, capsys)


def test_both_nets_learn_to_read_digits(script: Script) -> None:
    rows = script("classification", "--quick", "--seeds", "3", "4")
    assert [(row["net"], row["seed"]) for row in rows] == [("AlexNet", "3"), ("ResNet-18", "3")]
    assert all(float(row["val accuracy"]) >= 0.9 for row in rows)
    assert all(float(row["test accuracy"]) >= 0.9 for row in rows)
    assert script.message is None


def test_the_fcn_learns_to_see_shapes(script: Script) -> None:
    (row,) = script("segmentation", "--quick")
    # A net that sees background everywhere has a quarter at most.
    assert float(row["val mean IoU"]) >= 0.6
    kinds = ("background", "circle", "square", "triangle")
    each = [float(row[f"IoU of {kind}"]) for kind in kinds]
    assert sum(each) / 4 == pytest.approx(float(row["val mean IoU"]), abs=1e-3)
    assert script.message is None


@pytest.mark.full
@pytest.mark.parametrize("data", ["fashion-mnist", "cifar-10-subset"])
def test_nets_reach_their_goal_with_three_seeds(data: str, script: Script, data_root: Path) -> None:
    # A night is enough for this without an accelerator.
    scale = [] if torch.accelerator.is_available() else ["--scale", "0.25"]
    rows = script("classification", "--data", str(data_root), "--sets", data, *scale)
    assert [row["seed"] for row in rows] == ["0", "1", "2"] * 2
    assert script.message is None


@pytest.mark.full
@pytest.mark.parametrize(("options", "goal"), [([], 0.85), (["--boundary"], 0.65)])
def test_nuclei_are_found_with_three_seeds(
    options: list[str], goal: float, script: Script, data_root: Path
) -> None:
    rows = script("segmentation", "--data", str(data_root), *options)
    assert [row["seed"] for row in rows] == ["0", "1", "2"]
    assert all(float(row["val mean IoU"]) >= goal for row in rows)


@pytest.mark.parametrize("net", ["alexnet", "resnet18"])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_nets_take_small_pictures_of_any_size(net: str, size: int) -> None:
    made = getattr(vision, net)(1, 7, 0.125)
    assert made(torch.zeros(2, 1, size, size)).shape == (2, 7)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_resnet_is_that_of_the_paper_but_for_its_stem_and_its_classes() -> None:
    stem = 64 * 3 * (7 * 7 - 3 * 3)
    classes = (512 + 1) * (1000 - 10)
    net = vision.resnet18(3, 10)
    assert parameters(net) == RESNET_OF_THE_PAPER - stem - classes == 11_173_962
    counted = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len([m for m in counted if getattr(m, "kernel_size", None) != (1, 1)]) == 18


def test_alexnet_is_that_of_the_paper_but_for_what_its_docstring_names() -> None:
    stem = 96 * 3 * (11 * 11 - 5 * 5)
    # The normalisation has a scale and a shift; the latter stands in for the bias.
    scales = 96 + 256 + 384 + 384 + 256
    places = 256 * 6 * 6, 256 * 4 * 4
    hidden = (places[0] + 1) * 4096 - (places[1] + 1) * 1024 + 4097 * 4096 - 1025 * 1024
    classes = 4097 * 1000 - 1025 * 10
    net = vision.alexnet(3, 10)
    assert parameters(net) == ALEXNET_IN_ONE_TOWER - stem + scales - hidden - classes
    layers = [m for m in net if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert [type(layer) for layer in layers] == [nn.Conv2d] * 5 + [nn.Linear] * 3


def test_a_residual_block_adds_what_it_got() -> None:
    same, smaller = vision.Residual(3, 3, 1).eval(), vision.Residual(3, 4, 2).eval()
    x = torch.randn(2, 3, 6, 6)
    for block in (same, smaller):
        nn.init.zeros_(block.body[-1].weight)
    torch.testing.assert_close(same(x), x.relu())
    torch.testing.assert_close(smaller(x), smaller.shortcut(x).relu())
    assert smaller(x).shape == (2, 4, 3, 3)


@pytest.mark.parametrize("size", [(32, 32), (50, 71), (1, 3)])
def test_the_fcn_rates_each_pixel_of_pictures_of_any_size(size: tuple[int, int]) -> None:
    net = vision.FCN(2, 3, width=2).eval()
    assert net(torch.zeros(2, 2, *size)).shape == (2, 3, *size)


def test_the_fcn_has_its_parameters_where_the_paper_has() -> None:
    widths, classes = [16, 32, 64, 128, 256], 3
    before = [1, *widths[:-1]]
    # Two convolutions a block, with a scale and a shift each.
    blocks = sum(9 * a * b + 9 * b * b + 4 * b for a, b in zip(before, widths, strict=True))
    ratings = sum((width + 1) * classes for width in widths[1:])
    enlarging = 4 * classes * classes * 4 * 4
    assert parameters(vision.FCN(1, classes)) == blocks + ratings + enlarging


def test_every_level_of_the_fcn_has_a_say() -> None:
    net = vision.FCN(1, 2, width=2)
    net(torch.randn(2, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.rate.parameters())


def test_what_is_enlarged_is_interpolated_at_first() -> None:
    x = torch.randn(2, 3, 6, 6)
    wanted = nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(vision.twofold(3)(x)[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1])


def test_bytes_become_numbers_of_mean_zero_and_unit_spread_unless_all_are_one() -> None:
    images = torch.randint(0, 200, (20, 3, 5, 5), dtype=torch.uint8)
    images[:, 1] = 7
    std, mean = torch.std_mean(vision.normalizer(images)(images), dim=(0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.tensor([1.0, 0.0, 1.0]))


def test_rims_are_pixels_of_a_nucleus_next_to_others() -> None:
    instances = torch.tensor([
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 3, 0],
        [1, 1, 1, 0, 0, 0],
        [2, 2, 2, 0, 0, 0],
    ], dtype=torch.uint8)  # fmt: skip
    wanted = torch.tensor([
        [1, 1, 2, 0, 0, 0],
        [1, 1, 2, 0, 2, 0],
        [2, 2, 2, 0, 0, 0],
        [2, 2, 2, 0, 0, 0],
    ])  # fmt: skip
    assert torch.equal(segmentation.with_rims(instances[None]), wanted[None])


def test_files_of_nuclei_are_learned_with_their_rims(script: Script, tmp_path: Path) -> None:
    pixels = torch.zeros(128, 128, dtype=torch.uint8)
    pixels[20:60, 30:90] = 1
    for part in ("train", "val"):
        save_image(tmp_path / f"dsb2018-nuclei/{part}/labels/a.png", pixels.numpy())
        save_image(tmp_path / f"dsb2018-nuclei/{part}/images/a.png", pixels.numpy() * 99)
    wanted = ["background", "nucleus", "rim"]
    options = ("--data", str(tmp_path), "--epochs", "1", "--seeds", "0")
    (row,) = script("segmentation", *options, "--boundary")
    assert [name[7:] for name in row if name.startswith("IoU of")] == wanted
    assert script.message == "Each mean IoU in validation must be at least 0.65."
    (row,) = script("segmentation", *options)
    assert [name[7:] for name in row if name.startswith("IoU of")] == wanted[:2]


def test_files_without_a_test_part_are_learned(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTIMATOR_DATA", str(write_all(tmp_path)))
    chosen = ("--sets", "cifar-10-subset", "--nets", "AlexNet", "--scale", "0.03")
    (row,) = script("classification", *chosen, "--epochs", "1", "--seeds", "0")
    assert (row["data"], row["epochs"], row["test accuracy"]) == ("cifar-10-subset", "1", "none")
    assert float(row["val accuracy"]) < float(row["goal"]) == 0.5
    assert script.message == "A validation accuracy is below its goal."


@pytest.mark.parametrize("name", SCRIPTS)
def test_data_that_is_not_there_is_told(name: str, script: Script, tmp_path: Path) -> None:
    assert script(name, "--data", str(tmp_path)) == []
    folder = "fashion-mnist" if name == "classification" else "dsb2018-nuclei"
    assert str(tmp_path / folder) in str(script.message)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_so_is_the_training_call(name: str) -> None:
    source = (MODELS / f"{name}.py").read_text("utf-8")
    assert len(source.splitlines()) <= 150
    (call,) = re.findall(r"^ +est\.fit\(.*?\)(?:  # fmt: skip)?\n\n", source, re.S | re.M)
    assert len(call.strip().splitlines()) <= 6
