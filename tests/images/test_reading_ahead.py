"""Reading ahead: images are decoded beside the training step before them, and nothing else
changes.
"""

import os
import pickle
import threading
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from cases import BUDGET
from making import quiet, repair_data
from PIL import Image

from timm_repair.images import pool as module
from timm_repair.images.sources import as_images
from timm_repair.training.batches import Batches, Shuffled
from timm_repair.training.options import Training

SIDE = 96  # from which on images are decoded in threads


def pictures(count: int, seed: int = 0) -> list:
    pixels = np.random.default_rng(seed).integers(256, size=(count, SIDE, SIDE), dtype=np.uint8)
    return [(Image.fromarray(image), i % 10) for i, image in enumerate(pixels)]


@pytest.fixture
def model():
    return planted.network(config={"input_size": (1, SIDE, SIDE)})


def test_expected_images_are_the_images(model):
    plain, ahead = (
        as_images(pictures(12), model, name="test", cache_bytes=0, check_readable=False)
        for _ in range(2)
    )
    ahead.expect([3, 1, 4])
    assert set(ahead.pool.expected) == {1, 3, 4}
    for rows in ([1, 5, 4, 1], [3], [3, 2]):
        assert torch.equal(ahead.pixels(rows), plain.pixels(rows))
    assert not ahead.pool.expected, "each waits until it is fetched, and no longer"


def test_it_happens_in_other_threads_but_the_reader_is_asked_in_this_one(model, monkeypatch):
    decoding, reading = set(), set()
    images = as_images(pictures(6), model, name="test", cache_bytes=0, check_readable=False)
    pool, decode_one, read = images.pool, images.pool.decode_one, images.pool.reader.read
    monkeypatch.setattr(
        pool,
        "decode_one",
        lambda *given: decoding.add(threading.current_thread()) or decode_one(*given),
    )
    monkeypatch.setattr(
        pool.reader, "read", lambda rows: reading.add(threading.current_thread()) or read(rows)
    )
    images.expect(range(6))
    images.pixels(range(6))
    assert threading.current_thread() not in decoding and reading == {threading.current_thread()}


def test_small_or_kept_images_are_not_worth_it(model):
    kept = as_images(pictures(6), model, name="test", check_readable=False)
    kept.pixels([0, 1])
    kept.expect([0, 1, 2])
    assert set(kept.pool.expected) == {2}
    small = as_images(planted.pictures(1), planted.network(), name="test", check_readable=False)
    small.expect([0])
    assert not small.pool.expected


def test_what_is_never_fetched_does_not_pile_up(model, monkeypatch):
    monkeypatch.setattr(module, "EXPECTED_BYTES", 4 * SIDE**2)
    images = as_images(pictures(12), model, name="test", cache_bytes=0, check_readable=False)
    for start in range(0, 12, 3):
        images.expect(range(start, start + 3))
    assert list(images.pool.expected) == [6, 7, 8, 9, 10, 11], "twice as many as the last time"
    assert not pickle.loads(pickle.dumps(images)).pool.expected


def test_a_damaged_image_is_met_when_it_is_fetched(model, tmp_path):
    (tmp_path / "0").mkdir()
    for i in range(3):
        pictures(1, seed=i)[0][0].save(tmp_path / "0" / f"{i}.png")
    (tmp_path / "0" / "1.png").write_bytes(b"no image")
    images = as_images(
        str(tmp_path), model, name="test", label_map={"0": 0}, check_readable=False, cache_bytes=0
    )
    images.expect([0, 1])
    assert len(images.pixels([0])) == 1
    with pytest.raises(module.UnreadableError, match="1.png"):
        images.pixels([1])


def test_batches_are_those_without_it(model):
    """Also of a run that goes on: a checkpoint holds the place of the next batch, not of the one
    that is read ahead.
    """
    data = repair_data(model, pictures(10), pictures(14, seed=1))
    options = Training(**BUDGET | {"batch_size": 8, "hflip": 0.5, "shift": 0.1})
    supply = Batches(data, options, quiet(), "test")
    whole = [supply.draw() for _ in range(6)]
    first = Batches(data, options, quiet(), "test")
    for _ in range(3):
        first.draw()
    state = pickle.loads(pickle.dumps(first.state_dict()))
    first.draw()
    for later in (first, Batches(data, options, quiet(), "test")):
        later.load_state_dict(state)
        for expected in whole[3:]:
            assert all(
                torch.equal(one, other) for one, other in zip(later.draw(), expected, strict=True)
            )
    assert Batches(replace(data, retained=None), options, quiet(), "test").draw()[0].shape == (
        8,
        1,
        SIDE,
        SIDE,
    )


def test_shuffled_rounds():
    order = Shuffled(5, torch.Generator().manual_seed(0))
    taken = torch.cat([order.take(3) for _ in range(5)], 1)
    assert taken[1].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert [sorted(taken[0, start : start + 5].tolist()) for start in (0, 5, 10)] == [
        [0, 1, 2, 3, 4]
    ] * 3


def test_a_forked_process_does_not_wait_for_the_threads_of_another(model, monkeypatch):
    images = as_images(pictures(3), model, name="test", cache_bytes=0, check_readable=False)
    images.expect([0])
    images.pool.expected[1] = Future()  # nobody will ever finish it
    child = os.getpid() + 1
    monkeypatch.setattr("os.getpid", lambda: child)
    assert len(images.pixels([0, 1])) == 2
