# SPDX-License-Identifier: Apache-2.0
"""Runs of PixelRefer-Lite's training: gradients everywhere, a falling loss, and runs that go on."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import torch
from micro_language import SCENE, SHORTEST, STAGE

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.model import PixelReferLite
from pixelrefer_ros.training.checkpoints import (
    Sizes,
    new_checkpoint,
    new_network,
    parameter_count,
    tokenizer_of,
    trainable_network,
)
from pixelrefer_ros.training.data import make_batch
from pixelrefer_ros.training.language import (
    TRAINING,
    Learner,
    Rates,
    losses,
    rates_of,
    train_language,
)
from pixelrefer_ros.training.language_loss import answer_loss
from pixelrefer_ros.training.loop import Loop, Pace, read_progress
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.scoring.answers import answered, look
from pixelrefer_ros.training.stages import Stage
from pixelrefer_ros.training.validation import SCORE, KeptBest, WorldValidation
from pixelrefer_ros.training.world import (
    COLORS,
    SHAPES,
    SIZES,
    SURFACES,
    Example,
    scene_examples,
    scene_seeds,
)
from pixelrefer_ros.training.world_data import WorldBatches

pytestmark = pytest.mark.usefixtures("one_thread")


def test_validation_keeps_the_best_weights_of_a_stage(micro_folder, tmp_path):
    network = new_network(micro_folder, seed=0)
    scores = iter([0.2, 0.5, 0.4, 0.5])
    written: list[int] = []

    def kept(stage: str) -> KeptBest:
        return KeptBest(
            lambda _: {SCORE: next(scores, 0.1)},
            network,
            stage=stage,
            state=tmp_path,
            write=lambda: written.append(1),
        )

    for step in range(4):
        kept("first")(step)  # a new one each time: as after a stop
    assert len(written) == 3
    assert kept("first").best == 0.5
    assert kept("second").best is None
    kept("second")(5)
    assert len(written) == 4


def test_validation_judges_greedy_answers_and_changes_nothing(micro_folder):
    network = new_network(micro_folder, seed=0)
    tokenizer = tokenizer_of(micro_folder)
    validation = WorldValidation(STAGE, tokenizer, scenes=2, questions=3)
    before = {name: value.clone() for name, value in Learner(network).state_dict().items()}
    values = validation(network)
    assert values == validation(network)
    assert 0 <= values[SCORE] <= 1
    assert values["loss"] > 1
    assert all(torch.equal(before[name], value) for name, value in Learner(network).state_dict().items())
    assert answer_loss(
        network, make_batch(validation._examples[0], tokenizer, network.config)
    ).loss.requires_grad


def test_every_part_gets_gradients(micro_folder, micro_batches):
    network = new_network(micro_folder, seed=0)
    answer_loss(network, micro_batches[0]).loss.backward()
    learner = Learner(network)
    without = [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.any()]
    # What a key's bias adds is the same for every key, and a softmax ignores it; the vision encoder's last
    # norm is the only other part that may be unused.
    assert [name for name in without if not name.endswith(("k_proj.bias", "in_proj_bias"))] == []


def test_the_loss_of_a_fixed_batch_falls_until_its_answers_are_right(micro_folder, tmp_path):
    pictures = Stage("fixed", ("category", "color", "place"), SCENE, questions=4, moments=1)
    network = new_network(micro_folder, seed=0)
    batch = WorldBatches(micro_folder, network.config, pictures, seed=2, scenes=1)[0]
    learner = Learner(network).train()
    groups = parameter_groups({6e-3: [learner]}, weight_decay=0.0)
    loop = Loop("fixed", learner, groups, tmp_path, Pace(steps=70, log_every=1))
    loop.run([batch] * 70, lambda item: losses(network, item, bf16=False))
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    first, last = float(rows[0]["loss"]), float(rows[-1]["loss"])
    assert last < 0.2 * first
    assert float(rows[-1]["right"]) > float(rows[0]["right"])


def test_a_run_that_stops_goes_on_as_if_it_had_not(micro_folder, micro_batches, tmp_path):
    batch = micro_batches[0]

    def go_on(out, steps: int) -> tuple[dict[str, torch.Tensor], Loop]:
        network = new_network(micro_folder, seed=0)
        learner = Learner(network)
        # Both optimisers: their moments are saved apart.
        groups = parameter_groups({1e-3: [learner]}, weight_decay=0.01, hidden=[learner.vision.encoder])
        loop = Loop("s", learner, groups, out, Pace(steps=4, save_every=1))
        loop.resume()
        loop.run([batch] * steps, lambda item: losses(network, item, bf16=False))
        return learner.state_dict(), loop

    whole, _ = go_on(tmp_path / "whole", 4)
    go_on(tmp_path / "parts", 3)
    parts, loop = go_on(tmp_path / "parts", 1)
    assert loop.finished
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_state_of_other_steps_is_refused(micro_folder, micro_batches, tmp_path):
    network = new_network(micro_folder, seed=0)
    learner = Learner(network)
    groups = parameter_groups({1e-3: [learner]}, weight_decay=0.0)
    Loop("s", learner, groups, tmp_path, Pace(steps=4)).save()
    with pytest.raises(ParameterError, match="4 steps"):
        Loop("s", learner, groups, tmp_path, Pace(steps=5)).resume()


def test_each_part_has_its_own_rate_and_norms_do_not_decay(micro_folder):
    learner = Learner(new_network(micro_folder, seed=0))
    groups = parameter_groups(rates_of(learner, Rates(1e-3, 0.0, 2e-4)), weight_decay=0.1)
    assert {group["lr"] for group in groups} == {1e-3, 2e-4}
    assert not any(p.requires_grad for p in learner.vision.parameters())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert all(p.dim() >= 2 for group in groups if group["weight_decay"] for p in group["params"])
    assert id(learner.language.model.embed_tokens.weight) not in decayed
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in learner.parameters() if p.requires_grad}


def test_muon_steps_the_matrices_of_hidden_layers_alone(micro_folder):
    learner = Learner(new_network(micro_folder, seed=0))
    layers = [learner.vision.encoder, learner.language.model.layers]
    groups = parameter_groups({1e-3: [learner]}, weight_decay=0.1, hidden=layers)
    turned = {id(p) for group in groups if "muon" in group for p in group["params"]}
    assert turned == {id(p) for module in layers for p in module.parameters() if p.dim() == 2}
    trained = [id(p) for group in groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(learner.parameters()))


def test_two_stages_leave_a_checkpoint_that_answers(tmp_path):
    settings = replace(SHORTEST, seed=1, steps=(2, 1), log_every=1)
    assert train_language(tmp_path, settings)
    model = PixelReferLite.from_pretrained(tmp_path)
    example: Example = next(scene_examples(scene_seeds("val", 0, 1)[0], 1, settings=SCENE))
    assert [asked for asked, _ in answered(model, [(example, look(model, example))])] == [example]
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert recipe["seed"] == 1
    assert recipe["parameters"] == parameter_count(trainable_network(tmp_path))
    progress = read_progress(tmp_path / TRAINING)
    assert progress == {"stage": "instructions", "step": 1, "steps": 1}
    written = (tmp_path / "model.safetensors").read_bytes()
    assert train_language(tmp_path, settings)  # nothing is left to do
    assert (tmp_path / "model.safetensors").read_bytes() == written


def test_the_default_sizes_fit_what_is_shipped_and_its_words_are_single_tokens(tmp_path):
    new_checkpoint(tmp_path, Sizes(), seed=0)
    count = parameter_count(new_network(tmp_path, seed=0))
    assert count <= 10_000_000
    assert 2 * count <= 20_000_000  # bytes in float16
    tokenizer = tokenizer_of(tmp_path)
    for word in (*COLORS, *SHAPES, *SURFACES, *SIZES):
        assert len(tokenizer.encode([(f" {word}", False)])) == 1, word
    text = "user\nWhat is [] really? Ünknown words, too."
    assert tokenizer.decode(tokenizer.encode([(text, False)])) == text
