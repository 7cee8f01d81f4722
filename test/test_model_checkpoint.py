# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.model import PixelReferLite, load_network, write_tiny_checkpoint
from pixelrefer_ros.model.hub import find_checkpoint
from pixelrefer_ros.model.weights import INDEX, SINGLE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(original, tmp_path / "model"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(folder / SINGLE)
    change(weights)
    save_file(weights, folder / SINGLE)


def change_config(folder: Path, **fields: Any) -> None:
    """None removes a field."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(
        json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8"
    )


def parameters(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    network = load_network(folder, device=CPU, dtype=dtype)
    modules = {"vision": network.vision, "object": network.object_encoder, "language": network.language}
    return {
        f"{name}.{key}": value
        for name, module in modules.items()
        for key, value in module.state_dict().items()
    }


def test_sharded_folder_holds_the_same_model(original: Path, tmp_path: Path) -> None:
    sharded = write_tiny_checkpoint(tmp_path / "sharded", sharded=True)
    assert (sharded / INDEX).is_file()
    assert not (sharded / SINGLE).exists()
    single, pieces = parameters(original), parameters(sharded)
    assert single.keys() == pieces.keys()
    assert all(torch.equal(value, pieces[key]) for key, value in single.items())


def test_writing_one_file_over_a_sharded_folder_leaves_no_index(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, sharded=True, seed=1)
    write_tiny_checkpoint(tmp_path, seed=2)
    assert [path.name for path in sorted(tmp_path.glob("model*"))] == [SINGLE]


def test_tied_head_is_the_embeddings_in_the_same_memory(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path, tied=True)
    assert "lm_head.weight" not in load_file(folder / SINGLE)
    language = load_network(folder, device=CPU, dtype=torch.float32).language
    assert language.lm_head.weight.data_ptr() == language.model.embed_tokens.weight.data_ptr()


def test_absent_head_is_tied_even_if_the_config_does_not_say_so(folder: Path) -> None:
    change_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    language = load_network(folder, device=CPU, dtype=torch.float32).language
    assert torch.equal(language.lm_head.weight, language.model.embed_tokens.weight)


def test_keys_that_are_not_needed_do_not_matter(folder: Path, original: Path) -> None:
    unneeded = ("model.mm_projector.readout.0.weight", "model.region_encoder.mask_embedding.weight")
    change_weights(folder, lambda weights: [weights.pop(key) for key in unneeded])
    assert parameters(folder).keys() == parameters(original).keys()


@pytest.mark.parametrize(
    "key",
    [
        "model.region_encoder.fusion_attention_local.in_proj_weight",
        "model.vision_encoder.vision_encoder.post_layernorm.bias",
        "model.vision_encoder.vision_encoder.embeddings.patch_embedding.weight",
        "model.layers.1.self_attn.q_proj.bias",
        "model.embed_tokens.weight",
    ],
)
def test_missing_key_is_named_with_its_shape(folder: Path, key: str) -> None:
    shape = list(load_file(folder / SINGLE)[key].shape)
    change_weights(folder, lambda weights: weights.pop(key))
    with pytest.raises(CheckpointError) as caught:
        load_network(folder, device=CPU, dtype=torch.float32)
    assert f"{key} is missing (expected shape {shape})" in str(caught.value)


def test_misshapen_key_is_named_with_both_shapes(folder: Path) -> None:
    key = "model.region_encoder.pos_linear.weight"
    change_weights(folder, lambda weights: weights.update({key: torch.zeros(64, 3)}))
    with pytest.raises(CheckpointError, match=r"pos_linear.weight has shape \[64, 3\], expected \[64, 2\]"):
        load_network(folder, device=CPU, dtype=torch.float32)


def test_many_wrong_keys_are_one_error(folder: Path) -> None:
    change_config(folder, hidden_size=256)
    with pytest.raises(CheckpointError, match=r"expected \[512, 256\].*and \d+ more"):
        load_network(folder, device=CPU, dtype=torch.float32)


def test_quantised_weights_are_refused(folder: Path) -> None:
    key = "model.norm.weight"
    change_weights(folder, lambda weights: weights.update({key: torch.ones(128, dtype=torch.int8)}))
    with pytest.raises(CheckpointError, match=r"model.norm.weight is torch.int8"):
        load_network(folder, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickled_weights_are_refused(folder: Path, name: str) -> None:
    (folder / SINGLE).rename(folder / name)
    for path in (folder, folder / name):
        with pytest.raises(CheckpointError, match="pickled"):
            PixelReferLite.from_pretrained(path)


def test_index_naming_pickled_shards_is_refused(folder: Path) -> None:
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {"lm_head.weight": "pytorch_model.bin"}}), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match="pickled"):
        load_network(folder, device=CPU, dtype=torch.float32)


def test_index_pointing_outside_the_folder_is_refused(folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "../other/model.safetensors"}}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match="same folder"):
        load_network(folder, device=CPU, dtype=torch.float32)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path, sharded=True)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        load_network(folder, device=CPU, dtype=torch.float32)


def test_truncated_file_is_named(folder: Path) -> None:
    path = folder / SINGLE
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_network(folder, device=CPU, dtype=torch.float32)


def test_vision_sizes_come_from_the_weights_save_for_the_heads(folder: Path, original: Path) -> None:
    change_config(folder, vision_config={"num_attention_heads": 4})
    network = load_network(folder, device=CPU, dtype=torch.float32)
    expected = load_network(original, device=CPU, dtype=torch.float32).config.vision
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "patch_size",
    ):
        assert getattr(network.config.vision, name) == getattr(expected, name)


def test_heads_that_nothing_tells_are_asked_for(folder: Path) -> None:
    change_config(folder, vision_config=None)
    with pytest.raises(CheckpointError, match="num_attention_heads"):
        load_network(folder, device=CPU, dtype=torch.float32)


def test_published_width_has_sixteen_heads(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path, vision_width=1152, vision_layers=1)
    change_config(folder, vision_config=None)
    assert load_network(folder, device=CPU, dtype=torch.bfloat16).config.vision.num_attention_heads == 16


@pytest.mark.parametrize("place", ["vision_config.json", "encoder/config.json"])
def test_vision_config_may_be_a_file_of_its_own(folder: Path, place: str) -> None:
    vision = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vision_config"]
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text(json.dumps(vision), encoding="utf-8")
    change_config(folder, vision_config=None, mm_vision_encoder="encoder")
    assert load_network(folder, device=CPU, dtype=torch.float32).config.vision.num_attention_heads == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_num": 0}, "mask_num is 0"),
        ({"mask_num": None}, "mask_num is None"),
        ({"hidden_size": "128"}, "hidden_size is '128'"),
        ({"position_reading": "guess"}, "position_reading is 'guess'"),
        ({"patch_budget": -1}, "patch_budget is -1"),
        ({"region_token_index": 512}, "region_token_index is 512"),
        ({"region_token_index": 7}, "the tokenizer's <REGION> is 511"),
    ],
)
def test_unusable_config_field_is_named(folder: Path, fields: dict[str, Any], message: str) -> None:
    change_config(folder, **fields)
    with pytest.raises(CheckpointError, match=message):
        PixelReferLite.from_pretrained(folder)


def test_checkpoint_without_a_position_field_is_a_released_one(folder: Path) -> None:
    assert load_network(folder, device=CPU, dtype=torch.float32).config.position_reading == "paper"
    change_config(folder, position_reading=None)
    assert load_network(folder, device=CPU, dtype=torch.float32).config.position_reading == "released"


def test_networks_load_without_a_tokenizer_but_the_model_needs_one(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert load_network(folder, device=CPU, dtype=torch.float32).config.region_token_id == 511
    with pytest.raises(CheckpointError, match=r"no tokenizer.json"):
        PixelReferLite.from_pretrained(folder)


def test_half_precision_loads_every_weight_in_it_and_keeps_rotary_tables_exact(folder: Path) -> None:
    assert {value.dtype for value in parameters(folder, torch.bfloat16).values()} == {torch.bfloat16}
    network = load_network(folder, device=CPU, dtype=torch.bfloat16)
    for module in (network.vision.rotary_pos_emb, network.language.model.rotary_emb):
        assert module.inv_freq.dtype == torch.float32
        assert module.inv_freq.device.type == "cpu"


def test_weights_do_not_depend_on_the_file_after_loading(folder: Path) -> None:
    network = load_network(folder, device=CPU, dtype=torch.float32)
    before = network.language.model.norm.weight.clone()
    with (folder / SINGLE).open("r+b") as file:
        file.truncate(1)
    assert torch.equal(network.language.model.norm.weight, before)


def test_content_hash_is_of_the_bytes(folder: Path, original: Path) -> None:
    first = PixelReferLite.from_pretrained(original)
    assert PixelReferLite.from_pretrained(folder).content_hash == first.content_hash
    assert len(first.content_hash) == 64
    change_weights(folder, lambda weights: weights["model.norm.weight"].add_(1e-3))
    changed = PixelReferLite.from_pretrained(folder).content_hash
    assert changed != first.content_hash
    change_config(folder, patch_budget=100)
    assert PixelReferLite.from_pretrained(folder).content_hash not in {changed, first.content_hash}


def test_missing_folder_and_malformed_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="owner/name"):
        find_checkpoint("not a name")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"device": "tpu0"}, "device is 'tpu0'"),
        ({"device": "meta"}, "device is 'meta'"),
        ({"device": "cuda:99"}, "torch sees"),
        ({"backend": "onnxruntime"}, "pixelrefer export"),
    ],
)
def test_unusable_parameter_is_refused(original: Path, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        PixelReferLite.from_pretrained(original, **arguments)
