"""Small files in the formats in which MNIST, its relatives and CIFAR are published."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
import urllib.error
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from gradmix_ext.cli import cli
from gradmix_ext.continual import load_dataset

torchvision = pytest.importorskip("torchvision")

RNG = np.random.default_rng(0)
IDX = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
CIFAR = {"cifar10": ("CIFAR10", 10), "cifar100": ("CIFAR100", 100)}


@pytest.fixture
def offline(monkeypatch):
    """No network, whatever this machine has."""

    def refuse(request, *args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def served():
    """Serves a folder: served(folder) is its address."""
    servers = []

    def serve(folder):
        handler = partial(Quiet, directory=str(folder))
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def idx_file(path, array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + sizes + array.tobytes()))


@pytest.fixture
def idx_files(tmp_path, monkeypatch):
    """Writes the four files of an MNIST-like data set; torchvision expects their checksums."""

    def write(class_name, train=40, test=20, labels=10):
        kind = getattr(torchvision.datasets, class_name)
        raw = tmp_path / class_name / "raw"
        raw.mkdir(parents=True)
        arrays = {}
        for prefix, count in (("train", train), ("t10k", test)):
            arrays[prefix] = RNG.integers(256, size=(count, 28, 28), dtype=np.uint8)
            idx_file(raw / f"{prefix}-images-idx3-ubyte.gz", arrays[prefix])
            y = (np.arange(count) % labels).astype(np.uint8)
            idx_file(raw / f"{prefix}-labels-idx1-ubyte.gz", y)
        sums = [(name, md5(raw / name)) for name, _ in kind.resources]
        monkeypatch.setattr(kind, "resources", sums)
        return raw, arrays

    return write


def cifar_batch(path, images, labels, key):
    rows = images.reshape(len(images), -1)
    batch = {"data": rows, key: labels, "batch_label": "a batch", "filenames": ["x"] * len(rows)}
    path.write_bytes(pickle.dumps(batch, protocol=2))


@pytest.fixture
def cifar_files(tmp_path, monkeypatch):
    """Writes the archive of a CIFAR; torchvision expects its checksums and those of its parts."""

    def write(class_name, classes, shift=0):
        kind = getattr(torchvision.datasets, class_name)
        key = "labels" if classes == 10 else "fine_labels"
        inside = tmp_path / "inside" / kind.base_folder
        inside.mkdir(parents=True)
        images = {}
        for split, files in (("train", kind.train_list), ("test", kind.test_list)):
            parts, sums = [], []
            for name, _ in files:
                parts.append(RNG.integers(256, size=(classes, 3, 32, 32), dtype=np.uint8))
                labels = [k + shift for k in range(classes)]
                cifar_batch(inside / name, parts[-1], labels, key)
                sums.append([name, md5(inside / name)])
            images[split] = np.concatenate(parts)
            monkeypatch.setattr(kind, f"{split}_list", sums)
        meta = inside / kind.meta["filename"]
        names = [f"class {k}" for k in range(classes)]
        meta.write_bytes(pickle.dumps({kind.meta["key"]: names}, protocol=2))
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
        archive = tmp_path / kind.filename
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(inside, kind.base_folder)
        monkeypatch.setattr(kind, "tgz_md5", md5(archive))
        return archive, images

    return write


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("name", IDX)
def test_idx_files(name, download, idx_files, tmp_path, offline):
    _, arrays = idx_files(IDX[name])
    for _ in range(2):  # the second time from what the first has unpacked
        dataset = load_dataset(name, tmp_path, download=download)
        assert dataset.name == name
        assert dataset.train_x.dtype == torch.uint8
        assert np.array_equal(dataset.train_x.numpy(), arrays["train"][:, None])
        assert np.array_equal(dataset.test_x.numpy(), arrays["t10k"][:, None])
        assert dataset.train_y.tolist() == [k % 10 for k in range(40)]
        assert dataset.image_shape == (1, 28, 28)
        assert len(dataset.transform.mean) == 1
        assert (dataset.transform.padding, dataset.transform.hflip) == (0, False)
        assert dataset.num_classes == 10
    if name == "mnist":
        assert dataset.class_names == tuple("0123456789")


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_files(name, cifar_files, tmp_path, offline):
    class_name, classes = CIFAR[name]
    archive, images = cifar_files(class_name, classes)
    for download in (False, False, True):
        dataset = load_dataset(name, tmp_path, download=download)
        assert np.array_equal(dataset.train_x.numpy(), images["train"])
        assert np.array_equal(dataset.test_x.numpy(), images["test"])
        assert dataset.train_x.is_contiguous()
        assert dataset.test_y.tolist() == list(range(classes))
        assert dataset.class_names == tuple(f"class {k}" for k in range(classes))
        assert dataset.image_shape == (3, 32, 32)
        assert (dataset.transform.padding, dataset.transform.hflip) == (4, True)
        archive.unlink(missing_ok=True)  # what was unpacked is enough


def test_downloading(idx_files, cifar_files, tmp_path, served, monkeypatch):
    raw, arrays = idx_files("MNIST")
    archive, images = cifar_files("CIFAR10", 10)
    datasets = torchvision.datasets
    monkeypatch.setattr(datasets.MNIST, "mirrors", [served(raw)])
    monkeypatch.setattr(datasets.CIFAR10, "url", served(tmp_path) + archive.name)
    target = tmp_path / "target"
    monkeypatch.setenv("GRADMIX_EXT_DATA", str(target))
    assert np.array_equal(load_dataset("mnist").test_x.numpy(), arrays["t10k"][:, None])
    assert np.array_equal(load_dataset("cifar10").test_x.numpy(), images["test"])
    assert (target / archive.name).is_file()


def test_a_download_with_the_wrong_checksum(cifar_files, tmp_path, served, monkeypatch):
    archive, _ = cifar_files("CIFAR10", 10)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", served(tmp_path) + archive.name)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", "0" * 32)
    (tmp_path / "target").mkdir()
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz .* \(wrong MD5\)"):
        load_dataset("cifar10", tmp_path / "target")


@pytest.mark.parametrize("download", [True, False])
def test_files_that_are_not_there(download, tmp_path, offline):
    why = "cannot be downloaded" if download else "may not be downloaded"
    with pytest.raises(FileNotFoundError) as caught:
        load_dataset("mnist", tmp_path, download=download)
    message = str(caught.value)
    assert f"mnist is not in {tmp_path}/MNIST/raw and {why}" in message
    assert "https://ossci-datasets.s3.amazonaws.com/mnist/" in message
    assert all(f"{part}-ubyte.gz" in message for part in ("train-images-idx3", "t10k-labels-idx1"))
    with pytest.raises(
        FileNotFoundError, match=r"put cifar-100-python.tar.gz there, from https://"
    ):
        load_dataset("cifar100", tmp_path, download=download)


def test_the_command_line_says_so_in_one_line(tmp_path, offline):
    arguments = ["train", "--dataset", "cifar10", "--data-dir", str(tmp_path)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert f"cifar10 is not in {tmp_path} and cannot be downloaded" in result.stderr


@pytest.mark.parametrize("download", [True, False])
def test_one_file_is_missing(download, idx_files, tmp_path, offline):
    raw, _ = idx_files("MNIST")
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"put t10k-labels-idx1-ubyte.gz there"):
        load_dataset("mnist", tmp_path, download=download)


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_damaged_archives(damage, download, idx_files, cifar_files, tmp_path, offline):
    raw, _ = idx_files("KMNIST")
    archive, _ = cifar_files("CIFAR100", 100)
    for name, path in (("kmnist", raw / "train-images-idx3-ubyte.gz"), ("cifar100", archive)):
        content = path.read_bytes()
        damaged = {"truncated": content[: len(content) // 2], "empty": b"", "foreign": b"<html>"}
        path.write_bytes(damaged[damage])
        with pytest.raises(ValueError, match=rf"{path.name} in .* is damaged or incomplete"):
            load_dataset(name, tmp_path, download=download)


@pytest.mark.parametrize("size", [0, 3, 10, 1000])
def test_a_damaged_file_that_was_unpacked(size, idx_files, cifar_files, tmp_path, offline):
    raw, arrays = idx_files("MNIST")
    load_dataset("mnist", tmp_path)
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:size])
    with pytest.raises(
        ValueError, match=r"MNIST/raw is damaged .*: remove train-images-idx3-ubyte"
    ):
        load_dataset("mnist", tmp_path)
    for path in raw.glob("*-ubyte"):
        path.unlink()
    again = load_dataset("mnist", tmp_path)
    assert np.array_equal(again.train_x.numpy(), arrays["train"][:, None])

    archive, _ = cifar_files("CIFAR10", 10)
    load_dataset("cifar10", tmp_path)
    archive.unlink()
    batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(batch.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"remove cifar-10-batches-py there"):
        load_dataset("cifar10", tmp_path)


def test_labels_that_are_out_of_range(idx_files, cifar_files, tmp_path, offline):
    idx_files("MNIST", labels=12)
    with pytest.raises(ValueError, match=r"mnist: label out of range: train_y\[10\] = 10"):
        load_dataset("mnist", tmp_path)
    cifar_files("CIFAR10", 10, shift=1)
    with pytest.raises(ValueError, match=r"cifar10: label out of range: train_y\[9\] = 10"):
        load_dataset("cifar10", tmp_path)


def test_images_and_labels_that_differ_in_number(idx_files, tmp_path, monkeypatch, offline):
    raw, _ = idx_files("MNIST")
    idx_file(raw / "train-labels-idx1-ubyte.gz", np.zeros(39, np.uint8))
    sums = [(name, md5(raw / name)) for name, _ in torchvision.datasets.MNIST.resources]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", sums)
    with pytest.raises(ValueError, match=r"mnist: train_x must be \[N, ...\] and train_y \[N\]"):
        load_dataset("mnist", tmp_path)
