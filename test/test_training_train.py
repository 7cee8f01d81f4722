# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer train``: one command from nothing to a model, and on from a trained one."""

from __future__ import annotations

import argparse
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.model import PixelReferLite, write_tiny_checkpoint
from pixelrefer_ros.tracking import StreamTracker, write_tiny_sam2
from pixelrefer_ros.training import train
from pixelrefer_ros.training.checkpoints import trainable_network, weights_of
from pixelrefer_ros.training.language import Learner, Rates, rates_of
from pixelrefer_ros.training.lora import TARGETS, add_low_rank, halve_frozen, merge_low_rank
from pixelrefer_ros.training.precision import mixed_precision

pytestmark = pytest.mark.usefixtures("one_thread")


def arguments(*given: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args([str(value) for value in given])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("released"), mask_num=4, tied=False)


def test_one_command_makes_a_tracker(tmp_path, capsys):
    given = (
        "tracker",
        "--out",
        tmp_path,
        "--seed",
        2,
        "--steps",
        1,
        0,
        1,
        0,
        0,
        "--scenes",
        1,
        "--workers",
        0,
    )
    watched = ("--image-size", 64, "--device", "cpu", "--validate-every", 0)
    assert train.run(arguments(*given, *watched)) == 0
    assert "finished" in capsys.readouterr().out
    assert StreamTracker.from_pretrained(tmp_path).object_ids == ()


def test_a_tracker_that_is_trained_further_keeps_its_size_and_hardly_moves(tmp_path):
    released = write_tiny_sam2(tmp_path / "released", image_size=96)
    further = ("--from", released, "--steps", 0, 0, 0, 0, 2, "--scenes", 1, "--workers", 0, "--device", "cpu")
    assert train.run(arguments("tracker", "--out", tmp_path / "out", *further, "--validate-every", 0)) == 0
    recipe = json.loads((tmp_path / "out/recipe.json").read_text())
    assert recipe["image_size"] == 96
    assert json.loads((tmp_path / "out/config.json").read_text())["image_size"] == 96
    before, after = (load_file(folder / "model.safetensors") for folder in (released, tmp_path / "out"))
    assert any(not torch.equal(before[name].half(), after[name].half()) for name in before), "it learns"
    # Two steps of AdamW at a rate of 1e-5, beside what writing in float16 rounds off.
    most = max(float((before[n].float() - after[n].float()).abs().max()) for n in before)
    assert most < 2e-3


def parts_that_moved(before_folder, after_folder) -> set[str]:
    """Names of weights that differ by more than the float16 that they are written in."""
    before, after = (weights_of(trainable_network(f), torch.float16) for f in (before_folder, after_folder))
    assert set(before) == set(after)
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_trained_checkpoint_is_fine_tuned(trained, tmp_path):
    given = ("language", "--out", tmp_path / "tuned", "--from", trained, "--steps", 3, 0, "--scenes", 1)
    assert train.run(arguments(*given, "--workers", 0, "--device", "cpu", "--validate-every", 0)) == 0
    moved = parts_that_moved(trained, tmp_path / "tuned")
    assert any(name.startswith("model.region_encoder.") for name in moved)
    assert any(name.startswith("model.layers.") for name in moved)
    assert not any(name.startswith("model.vision_encoder.") for name in moved)
    PixelReferLite.from_pretrained(tmp_path / "tuned")
    recipe = json.loads((tmp_path / "tuned" / "recipe.json").read_text())
    assert recipe["start_from"] == str(trained) and recipe["steps"] == [3, 0]
    assert not {"sizes", "attribute_steps", "side_steps", "reading_scenes", "infusion_rate"} & set(recipe)


def bytes_of(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("further", [(), ("--from", "itself")], ids=["new", "from itself"])
@pytest.mark.parametrize("kind", ["language", "tracker"])
def test_a_model_that_no_run_there_has_made_is_not_overwritten(kind, further, trained, tmp_path):
    folder = tmp_path / "shipped"
    if kind == "language":
        shutil.copytree(trained, folder)
    else:
        write_tiny_sam2(folder)
    before = bytes_of(folder)
    further = [folder if word == "itself" else word for word in further]
    with pytest.raises(ParameterError, match=r"shipped holds a model \(model\.safetensors\).* another --out"):
        train.run(arguments(kind, "--out", folder, "--device", "cpu", *further))
    assert bytes_of(folder) == before


@pytest.mark.parametrize("given", [("--mask-num", 16), ("--side-steps", 5), ("--reading-steps", 5)])
def test_settings_of_a_new_model_are_refused_for_a_trained_one(given, trained, tmp_path):
    with pytest.raises(ParameterError, match=f"{given[0]}: only of a new model"):
        train.run(arguments("language", "--out", tmp_path / "x", "--from", trained, *given))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "given",
    [
        ("language", "--seed", -1),
        ("language", "--steps", -1, 0),
        ("language", "--lora", 4),
        ("language", "--mask-num", 0),
        ("tracker", "--steps", 1, 1, -1, 0, 0),
        ("tracker", "--minutes", -1),
        *(
            ("language", f"--{what}-steps", -1)
            for what in ("attribute", "frame", "side", "reading", "infusion")
        ),
    ],
)
def test_wrong_settings_are_refused(given, tmp_path):
    with pytest.raises(ParameterError):
        train.run(arguments(*given, "--out", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        train.run(arguments("language", "--out", tmp_path, "--from", tmp_path / "nowhere", "--device", "cpu"))


def test_merged_low_rank_updates_compute_the_same(trained):
    pytest.importorskip("peft", reason="LoRA is optional")
    network = trainable_network(trained)
    names = set(network.language.state_dict())
    chance = torch.Generator().manual_seed(0)
    embeddings = torch.randn(1, 6, network.config.language.hidden_size, generator=chance)
    with torch.no_grad():
        plain = network.language(inputs_embeds=embeddings).logits
        add_low_rank(network.language, 4)
        torch.testing.assert_close(network.language(inputs_embeds=embeddings).logits, plain)
        for name, parameter in network.language.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        changed = network.language(inputs_embeds=embeddings).logits
        merge_low_rank(network.language)
        merged = network.language(inputs_embeds=embeddings).logits
    assert not torch.allclose(changed, plain, atol=1e-3)
    # One product instead of two: float32 rounds differently in the sixth digit.
    torch.testing.assert_close(merged, changed, atol=1e-4, rtol=1e-4)
    assert set(network.language.state_dict()) == names


def test_weights_that_stay_are_held_in_bfloat16_and_come_back_to_the_bit(trained):
    pytest.importorskip("peft", reason="LoRA is optional")
    network = trainable_network(trained)
    before = {name: value.clone() for name, value in network.language.state_dict().items()}
    add_low_rank(network.language, 2)
    kept = halve_frozen(network.language)
    held = {name: p.dtype for name, p in network.language.named_parameters() if p.dtype != torch.float32}
    assert held
    assert set(held.values()) == {torch.bfloat16}
    assert all(name.endswith("base_layer.weight") for name in held)
    merge_low_rank(network.language, kept)  # updates begin as zero
    after = network.language.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_holding_them_so_changes_no_number_of_training_in_bfloat16(trained):
    pytest.importorskip("peft", reason="LoRA is optional")
    width = trainable_network(trained).config.language.hidden_size
    embeddings = torch.randn(1, 6, width, generator=torch.Generator().manual_seed(0))

    def gradients(*, halved: bool) -> list[torch.Tensor]:
        network = trainable_network(trained)
        torch.manual_seed(1)  # of the updates' first weights
        add_low_rank(network.language, 2)
        if halved:
            halve_frozen(network.language)
        with mixed_precision(torch.device("cpu"), bf16=True):
            network.language(inputs_embeds=embeddings).logits.float().square().mean().backward()
        return [p.grad for p in network.language.parameters() if p.grad is not None]

    held, plain = gradients(halved=True), gradients(halved=False)
    assert len(held) == len(plain) > 0
    assert all(torch.equal(one, other) for one, other in zip(held, plain, strict=True))


@pytest.mark.usefixtures("uncompiled")
def test_low_rank_training_learns_updates_and_leaves_a_plain_checkpoint(trained, tmp_path):
    pytest.importorskip("peft", reason="LoRA is optional")
    given = ("language", "--out", tmp_path / "tuned", "--from", trained, "--steps", 4, 0, "--scenes", 1)
    again = ("--lora", 2, "--workers", 0, "--device", "cpu", "--bf16")
    assert train.run(arguments(*given, *again, "--minutes", 1e-9)) == 0  # one step: then it goes on
    assert train.run(arguments(*given, *again)) == 0
    moved = parts_that_moved(trained, tmp_path / "tuned")
    in_layers = {name for name in moved if name.startswith("model.layers.")}
    assert in_layers
    assert all(any(target in name for target in TARGETS) for name in in_layers)


def test_only_updates_of_the_language_model_learn(trained):
    pytest.importorskip("peft", reason="LoRA is optional")
    network = trainable_network(trained)
    add_low_rank(network.language, 2)
    learner = Learner(network)
    rates_of(learner, Rates(1e-4, 0.0, 1e-4))
    learning = {name for name, p in learner.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith("object_encoder.") for name in learning)
    assert any("lora_" in name for name in learning)
