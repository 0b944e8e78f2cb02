"""Folders of images, and Tiny-ImageNet in its own layout."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gradmix_ext.cli import cli
from gradmix_ext.continual import Trainer, class_incremental, load_dataset
from gradmix_ext.continual.data import read
from gradmix_ext.continual.datasets import image_files
from gradmix_ext.continual.models import build_model, seeded
from gradmix_ext.experiments.saved import load_runs

pytest.importorskip("torchvision")

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def save(path, colour, size=(12, 10), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


def class_folders(root, count=5, classes=COLOURS):
    for name in classes:
        for k in range(count):
            save(root / name / f"{k}.{'png' if k % 2 else 'bmp'}", COLOURS[name])


def whole(x):
    return read(x, torch.arange(len(x)))


@pytest.fixture(params=["in memory", "read when used"])
def storage(request, monkeypatch):
    if request.param == "read when used":
        monkeypatch.setattr(image_files, "IN_MEMORY_BYTES", 0)
    return request.param


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_training_and_test_folders(held_out, storage, tmp_path):
    class_folders(tmp_path / "train", 5)
    class_folders(tmp_path / held_out, 2)
    dataset = load_dataset("imagefolder", tmp_path, image_size=8)
    assert dataset.name == tmp_path.name
    assert dataset.class_names == ("blue", "green", "red")
    assert torch.bincount(dataset.train_y).tolist() == [5, 5, 5]
    assert torch.bincount(dataset.test_y).tolist() == [2, 2, 2]
    assert isinstance(dataset.train_x, torch.Tensor) == (storage == "in memory")
    for x, y in ((dataset.train_x, dataset.train_y), (dataset.test_x, dataset.test_y)):
        images = whole(x)
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, 8, 8) == dataset.image_shape
        colours = torch.tensor([COLOURS[dataset.class_names[k]] for k in y.tolist()])
        assert torch.equal(images, colours[:, :, None, None].expand_as(images).to(torch.uint8))


def test_one_folder_is_split(storage, tmp_path):
    class_folders(tmp_path, 10)
    dataset = load_dataset("imagefolder", tmp_path, image_size=4)
    assert torch.bincount(dataset.train_y).tolist() == [8, 8, 8]
    assert torch.bincount(dataset.test_y).tolist() == [2, 2, 2]
    colours = torch.tensor([COLOURS[dataset.class_names[k]] for k in dataset.test_y.tolist()])
    assert torch.equal(whole(dataset.test_x)[:, :, 0, 0].long(), colours)
    assert len(class_incremental(dataset, tasks=3)) == 3


def test_images_are_resized_and_cut_in_the_middle(tmp_path):
    """A wide image of three stripes, each as wide as high, leaves the one in the middle."""
    stripes = np.zeros((20, 60, 3), np.uint8)
    stripes[:, 20:40] = 200
    for name in ("a", "b"):
        for k in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(stripes).save(tmp_path / name / f"{k}.png")
    images = load_dataset("imagefolder", tmp_path, image_size=20).train_x
    assert (images == 200).all()
    half = load_dataset("imagefolder", tmp_path, image_size=10).train_x
    assert (half[..., 2:-2] == 200).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode_become_rgb(mode, tmp_path):
    suffix = "jpg" if mode == "CMYK" else "png"
    for k in range(10):
        save(tmp_path / "white" / f"{k}.{suffix}", (255, 255, 255), mode=mode)
    dataset = load_dataset("imagefolder", tmp_path, image_size=6)
    assert dataset.train_x.shape[1:] == (3, 6, 6)
    assert (dataset.train_x >= 250).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_images_of_16_bits_keep_their_upper_ones(suffix, storage, tmp_path):
    pixels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    (tmp_path / "ramp").mkdir()
    for k in range(5):
        Image.fromarray(pixels).save(tmp_path / "ramp" / f"{k}.{suffix}")
    images = whole(load_dataset("imagefolder", tmp_path, image_size=8).train_x)
    expected = torch.from_numpy((pixels // 256).astype(np.uint8))
    assert torch.equal(images, expected.expand_as(images))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_images_of_32_bits_are_refused(dtype, storage, tmp_path):
    class_folders(tmp_path / "train", 2)
    class_folders(tmp_path / "val", 2)
    for part in ("train", "val"):
        Image.fromarray(np.ones((9, 9), dtype)).save(tmp_path / part / "blue" / "0.tif")
    with pytest.raises(ValueError, match=r"blue/0.tif cannot be read as an image: .* 32 bits"):
        whole(load_dataset("imagefolder", tmp_path, image_size=8).train_x)


def test_the_default_size(tmp_path):
    class_folders(tmp_path, 5, ["red"])
    assert load_dataset("imagefolder", tmp_path).image_shape == (3, 224, 224)


def test_an_image_that_cannot_be_decoded(storage, tmp_path):
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "val")
    whole_png = (tmp_path / "train" / "red" / "1.png").read_bytes()
    damaged = tmp_path / "train" / "blue" / "0.bmp"
    for content in (b"", b"not an image", whole_png[:40], whole_png[:-30]):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"train/blue/0.bmp cannot be read as an image"):
            load_dataset("imagefolder", tmp_path, image_size=8)


def test_hidden_folders_are_no_classes(tmp_path):
    class_folders(tmp_path)
    save(tmp_path / ".thumbnails" / "0.png", "red")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    dataset = load_dataset("imagefolder", tmp_path, image_size=8)
    assert dataset.class_names == ("blue", "green", "red")
    assert set(dataset.train_y.tolist()) == {0, 1, 2}


def test_hidden_files_are_no_samples_and_gifs_are(tmp_path):
    class_folders(tmp_path)
    (tmp_path / "red" / "._0.png").write_bytes(b"what macOS puts into archives")
    save(tmp_path / "red" / ".thumbnails" / "0.png", "blue")
    save(tmp_path / "red" / "5.gif", "red")
    dataset = load_dataset("imagefolder", tmp_path, image_size=8)
    counts = torch.bincount(dataset.train_y) + torch.bincount(dataset.test_y)
    assert counts.tolist() == [5, 5, 6]
    red = dataset.train_x[dataset.train_y == 2]
    assert (red[:, 0] == 255).all()
    assert (red[:, 2] == 0).all()


@pytest.mark.parametrize("names", [("Train", "Val"), ("train", "validation"), ("test", "val")])
def test_parts_of_the_data_are_not_taken_for_classes(names, tmp_path):
    for name in names:
        class_folders(tmp_path / name)
    held = ", ".join(f"{name}/" for name in names)
    with pytest.raises(ValueError, match=f"holds {held} and neither val/ nor test/ beside train/"):
        load_dataset("imagefolder", tmp_path)


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="give data_dir"):
        load_dataset("imagefolder")
    with pytest.raises(FileNotFoundError, match="find any class folder"):
        load_dataset("imagefolder", tmp_path)
    class_folders(tmp_path / "a")
    (tmp_path / "a" / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"a: Found no valid file for the classes empty"):
        load_dataset("imagefolder", tmp_path / "a")
    class_folders(tmp_path / "b" / "train")
    class_folders(tmp_path / "b" / "val", classes=["red", "blue"])
    with pytest.raises(ValueError, match="'green' is in one of them only"):
        load_dataset("imagefolder", tmp_path / "b")
    class_folders(tmp_path / "d" / "train")
    with pytest.raises(ValueError, match=r"d holds train/ and neither val/ nor test/"):
        load_dataset("imagefolder", tmp_path / "d")
    (tmp_path / "e" / ".cache").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="find any class folder"):
        load_dataset("imagefolder", tmp_path / "e")
    class_folders(tmp_path / "c", 5, ["red", "blue"])
    save(tmp_path / "c" / "green" / "1.png", "green")
    with pytest.raises(ValueError, match=r"class 1 \('green'\) has a single sample"):
        load_dataset("imagefolder", tmp_path / "c", image_size=8)


@pytest.mark.parametrize("workers", [0, 1])
def test_training_is_the_same_wherever_images_are(workers, tmp_path, monkeypatch):
    for name, colour in COLOURS.items():
        for k in range(5):
            save(tmp_path / name / f"{k}.png", tuple(max(0, value - 20 * k) for value in colour))
    weights = []
    for limit in (2**30, 0):
        monkeypatch.setattr(image_files, "IN_MEMORY_BYTES", limit)
        dataset = load_dataset("imagefolder", tmp_path, image_size=8, crop_padding=2, hflip=True)
        with seeded(0):
            model = build_model("resnet32", dataset.image_shape, 3)
        trainer = Trainer(model, buffer=3, epochs=1, batch_size=6, workers=workers)
        trainer.fit(class_incremental(dataset, increment=[2, 1]))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_the_command_line_trains_on_a_folder(tmp_path):
    class_folders(tmp_path / "images")
    flags = """
        --image-size 8 --model resnet18 --stem cifar --crop-padding 1 --hflip --no-download
        --tasks 3 --epochs 1 --buffer-size 3 --device cpu
    """
    folder, out = str(tmp_path / "images"), str(tmp_path / "run")
    arguments = ["train", "--dataset", "imagefolder", "--data-dir", folder, "--out", out]
    result = CliRunner().invoke(cli, [*arguments, *flags.split()], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    expected = {"image_size": 8, "model": "resnet18", "stem": "cifar", "download": False}
    assert expected.items() <= settings.items()
    (run,) = load_runs(out, "cpu")
    assert run.experiment.dataset.transform.hflip
    assert run.model()(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


# Tiny-ImageNet ------------------------------------------------------------------------------------

WNIDS = ["n02124075", "n01443537", "n03388043"]
COLOUR_OF = dict(zip(WNIDS, COLOURS.values(), strict=True))


@pytest.fixture
def tiny(tmp_path):
    root = tmp_path / "tiny-imagenet-200"
    for wnid in WNIDS:
        for k in range(3):
            save(root / "train" / wnid / "images" / f"{wnid}_{k}.JPEG", COLOUR_OF[wnid], (64, 64))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
    lines = []
    for k, wnid in enumerate(reversed(WNIDS)):
        save(root / "val" / "images" / f"val_{k}.JPEG", COLOUR_OF[wnid], (64, 64))
        lines.append(f"val_{k}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    save(root / "test" / "images" / "test_0.JPEG", "white", (64, 64))
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    (root / "words.txt").write_text(
        "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\n"
        "n02124075\tEgyptian cat\nn03388043\tfountain\n"
    )
    return root


@pytest.mark.parametrize("inside", [True, False])
def test_tiny_imagenet(inside, storage, tiny):
    dataset = load_dataset("tiny-imagenet", tiny if inside else tiny.parent)
    assert dataset.class_names == ("Egyptian cat", "goldfish", "fountain")
    assert dataset.train_y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert dataset.test_y.tolist() == [2, 1, 0]
    assert dataset.image_shape == (3, 64, 64)
    assert (dataset.transform.padding, dataset.transform.hflip) == (4, True)
    for x, y in ((dataset.train_x, dataset.train_y), (dataset.test_x, dataset.test_y)):
        colours = torch.tensor([COLOUR_OF[WNIDS[k]] for k in y.tolist()])
        distance = (whole(x)[:, :, 32, 32].long() - colours).abs()
        assert distance.max() < 5  # JPEG
    assert load_dataset("tiny-imagenet", tiny, image_size=32).image_shape == (3, 32, 32)


def test_tiny_imagenet_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADMIX_EXT_DATA", str(tmp_path))
    expected = rf"unpack http://cs231n.*zip there, so that {tmp_path}/tiny-imagenet-200/wnids.txt"
    with pytest.raises(FileNotFoundError, match=expected):
        load_dataset("tiny-imagenet")


def test_a_tiny_imagenet_that_is_damaged(tiny):
    annotations = tiny / "val" / "val_annotations.txt"
    content = annotations.read_text()
    annotations.write_text(content.replace(WNIDS[0], "n999"))
    with pytest.raises(ValueError, match=r"val_2.JPEG has class 'n999', which is not in wnids.txt"):
        load_dataset("tiny-imagenet", tiny)
    annotations.write_text("val_0.JPEG n01443537")
    with pytest.raises(ValueError, match="columns separated by tabs"):
        load_dataset("tiny-imagenet", tiny)
    annotations.write_text(content)
    (tiny / "val" / "images" / "val_1.JPEG").unlink()
    with pytest.raises(ValueError, match=r"val_1.JPEG cannot be read as an image"):
        load_dataset("tiny-imagenet", tiny)
    shutil.rmtree(tiny / "train" / WNIDS[1])
    with pytest.raises(FileNotFoundError, match=rf"no .JPEG files in .*{WNIDS[1]}"):
        load_dataset("tiny-imagenet", tiny)
    (tiny / "words.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"words\.txt"):
        load_dataset("tiny-imagenet", tiny)
