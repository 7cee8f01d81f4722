# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the hub: what this machine has is used without asking; a real server counts who asks."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.model import PixelReferLite, write_tiny_checkpoint
from pixelrefer_ros.runtime.hub import is_hub_id
from pixelrefer_ros.tracking import StreamTracker, write_tiny_sam2

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The paths a hub is asked for, which has nothing; its cache is empty at first."""
    paths: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815 - the name http.server looks for

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield paths
    server.shutdown()
    server.server_close()


def cached(tmp_path: Path, name: str) -> Path:
    """The folder of a checkpoint in the cache, as the hub's client lays it out; to be filled."""
    kept = tmp_path / f"cache/models--robots--{name}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text(COMMIT)
    return kept / f"snapshots/{COMMIT}"


def test_a_model_that_was_fetched_before_is_loaded_without_asking(asked, tmp_path):
    shutil.copytree(write_tiny_checkpoint(tmp_path / "tiny"), cached(tmp_path, "tiny"))
    model = PixelReferLite.from_pretrained("robots/tiny")
    assert model.name == "tiny"
    assert model.content_hash == PixelReferLite.from_pretrained(tmp_path / "tiny").content_hash
    assert asked == []


def test_a_tracker_that_was_fetched_before_is_loaded_without_asking(asked, tmp_path):
    shutil.copytree(write_tiny_sam2(tmp_path / "sam2"), cached(tmp_path, "sam2"))
    StreamTracker.from_pretrained("robots/sam2")
    assert asked == []


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "model-2.safetensors"])
def test_what_is_not_whole_is_asked_for(asked, tmp_path, missing):
    folder = cached(tmp_path, "half")
    folder.mkdir(parents=True)
    weights = {"model.safetensors": ["model.safetensors"]}.get(
        missing, ["model-1.safetensors", "model-2.safetensors"]
    )
    if len(weights) > 1:
        index = {"weight_map": dict(zip("ab", weights, strict=True))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in {"config.json", *weights} - {missing}:
        (folder / name).write_text("{}")
    with pytest.raises(CheckpointError):
        StreamTracker.from_pretrained("robots/half")
    assert any("robots/half" in path for path in asked)


@pytest.mark.parametrize("load", [PixelReferLite.from_pretrained, StreamTracker.from_pretrained])
def test_what_the_hub_does_not_give_is_told_with_what_to_do(asked, load):
    with pytest.raises(CheckpointError, match=r"robots/none .*cannot be fetched .*give its folder"):
        load("robots/none")
    assert asked


@pytest.mark.parametrize("load", [PixelReferLite.from_pretrained, StreamTracker.from_pretrained])
def test_a_hub_that_cannot_be_reached_is_told_with_what_to_do(asked, monkeypatch, load):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"robots/none .*cannot be fetched .*give its folder"):
        load("robots/none")
    assert asked == []


@pytest.mark.parametrize("name", ["a", "../a", "a/../b", "a/b/c", "/a/b", "a/.b", "", Path("a/b")])
def test_a_path_is_no_hub_id(name):
    assert not is_hub_id(name)
    assert is_hub_id("facebook/sam2.1-hiera-tiny")
