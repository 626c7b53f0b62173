"""BVLC's files: fetched once from the address that has them, verified, resumed; else the message says where to put them."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from conftest import SHARED
from hosting import http_host

from datamodules.videos import DataError
from reproduce.acquisition.caffe_files import MEAN, WEIGHTS, fetched
from reproduce.acquisition.download import Patience

DATA = b"\n\tGoogleNet" + np.random.default_rng(0).bytes(400_000)
PATIENCE = Patience(timeout=60, attempts=3, pause=0.01)


@pytest.fixture
def host(count):
    with http_host() as host:
        yield host
    count("faults of servers", host.injected)


def at(*addresses: str, data: bytes = DATA):
    """The facts of the weights, at other addresses and of other bytes."""
    return replace(WEIGHTS, bytes=len(data), digest=hashlib.sha1(data).hexdigest(), addresses=addresses)


def test_a_file_is_fetched_once(host, tmp_path):
    url = host.put("file", DATA)
    folder = tmp_path / "hub/checkpoints"
    path = fetched(at(url), folder)
    assert path == folder / "bvlc_googlenet.caffemodel" and path.read_bytes() == DATA
    assert fetched(at(url), folder) == path and len(host.files["file"].asked) == 1
    assert not list(folder.glob("*.part*"))


@pytest.mark.parametrize("faults", [["drop:200000"], ["status:500"] * 9, ["page"], ["status:404"]])
def test_a_broken_address_is_resumed_or_left_for_the_next(host, tmp_path, faults):
    first, second = host.put("first", DATA, *faults), host.put("second", DATA)
    assert fetched(at(first, second), tmp_path, PATIENCE).read_bytes() == DATA
    assert len(host.files["second"].asked) == (0 if faults[0].startswith("drop") else 1)


def test_every_failure_says_where_to_put_the_file(host, tmp_path):
    other = host.put("other", DATA[:-1] + b"x")
    with pytest.raises(DataError) as error:
        fetched(at(f"{host.url}/gone", other), tmp_path, PATIENCE)
    for part in (f"{host.url}/gone: HTTP 404", "not BVLC's file", str(tmp_path / WEIGHTS.name), "backbone.weights=<file>"):
        assert part in str(error.value)
    assert not (tmp_path / WEIGHTS.name).exists()


def test_another_file_in_its_place_is_refused(tmp_path):
    (tmp_path / WEIGHTS.name).write_bytes(DATA)
    with pytest.raises(DataError, match=r"not BVLC's file: expected 53,533,754 bytes with SHA1 405fc5ac.*Remove it"):
        fetched(WEIGHTS, tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write .*backbone.mean=<file>"):
        fetched(MEAN, tmp_path / "file" / "hub")


@pytest.mark.skipif(not (SHARED / "weights" / MEAN.name).is_file(), reason="the mean image is not here")
def test_the_mean_image_is_the_published_one(tmp_path):
    (tmp_path / MEAN.name).write_bytes((SHARED / "weights" / MEAN.name).read_bytes())
    assert fetched(MEAN, tmp_path) == tmp_path / MEAN.name
