# SPDX-License-Identifier: Apache-2.0
"""Training PixelRefer-Lite: batches, gradients everywhere, a falling loss, and runs that go on."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.model import PixelReferLite, patchify
from pixelrefer_ros.model.kmeans import aggregate
from pixelrefer_ros.training import language_loss
from pixelrefer_ros.training.checkpoints import (
    Sizes,
    new_checkpoint,
    new_network,
    parameter_count,
    tokenizer_of,
    trainable_network,
    write_network,
)
from pixelrefer_ros.training.data import Batch, make_batch
from pixelrefer_ros.training.language import (
    TRAINING,
    LanguageSettings,
    Learner,
    Rates,
    losses,
    rates_of,
    train_language,
)
from pixelrefer_ros.training.language_loss import answer_loss, prompt_embeddings
from pixelrefer_ros.training.loop import Loop, Pace, parameter_groups, read_progress
from pixelrefer_ros.training.region_pass import aggregate_all
from pixelrefer_ros.training.scoring import ask
from pixelrefer_ros.training.stages import Stage
from pixelrefer_ros.training.text_rows import IGNORED
from pixelrefer_ros.training.validation import SCORE, KeptBest, WorldValidation
from pixelrefer_ros.training.vision_pass import encode_pictures
from pixelrefer_ros.training.world import (
    COLORS,
    KINDS,
    SHAPES,
    SIZES,
    SURFACES,
    Example,
    SceneSettings,
    scene_examples,
    scene_seeds,
)
from pixelrefer_ros.training.world_data import WorldBatches

MICRO = Sizes(
    vision_width=32,
    vision_layers=1,
    vision_heads=2,
    language_width=64,
    language_layers=2,
    language_heads=2,
    mask_num=4,
    vocabulary=512,
    patch_budget=48,
)
SCENE = SceneSettings(frames=8, size=(320, 240), objects=(2, 3))
STAGE = Stage("micro", tuple(KINDS), SCENE, questions=4, moments=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("micro")
    new_checkpoint(made, MICRO, seed=0)
    write_network(new_network(made, seed=0), made, made, dtype=torch.float32)
    return made


@pytest.fixture(scope="module")
def batches(folder):
    return WorldBatches(folder, new_network(folder, seed=0).config, STAGE, seed=1, scenes=2)


def test_a_batch_is_the_same_whoever_draws_it(batches):
    one, again, other = batches[3], batches[3], batches[4]
    assert torch.equal(one.rows.ids, again.rows.ids)
    assert all((a.image == b.image).all() for a, b in zip(one.crops, again.crops, strict=True))
    assert one.rows.ids.shape != other.rows.ids.shape or not torch.equal(one.rows.ids, other.ids)


def test_labels_are_the_answers_and_their_end(folder, batches):
    model = PixelReferLite.from_pretrained(folder)
    examples = batches.examples(0)
    batch = batches[0]
    assert len(batch.rows.ids) == len(examples)
    for row, example in enumerate(examples):
        answer = batch.rows.labels[row][batch.rows.labels[row] != IGNORED].tolist()
        assert model._tokenizer.decode(answer) == example.answer
        assert answer[-1] in model._tokenizer.stop_ids


def test_views_are_shared_between_questions(batches):
    examples, batch = batches.examples(0), batches[0]
    asked = sum(len(of_region) for example in examples for of_region in example.masks)
    assert len(batch.views) == asked
    assert len(batch.crops) == len(set(batch.views)) < asked
    assert len(batch.frames) == len(set(batch.frame_of)) <= len(batch.crops)


def test_training_sees_what_inference_sees(folder):
    model = PixelReferLite.from_pretrained(folder)
    network = trainable_network(folder)
    example = next(e for e in scene_examples(5, 8, settings=SCENE) if len(e.frames) == 1)
    batch = make_batch([example], model._tokenizer, model.config)
    trained = prompt_embeddings(network, batch)[0]
    frame = example.frames[0]
    tokens = model.encode_objects(
        frame.rgb, [masks[0] for masks in example.masks], model.encode_global(frame.rgb)
    )
    prompt = batch.rows.ids[0][batch.rows.labels[0] == IGNORED].tolist()
    served = model.network.prompt_embeddings(prompt, tokens)
    # The same float32 weights in passes of other sizes: sums differ in their last bits only.
    torch.testing.assert_close(trained[: len(prompt)], served, atol=2e-5, rtol=1e-4)


def test_pictures_together_are_what_the_encoder_makes_of_each(folder):
    network = new_network(folder, seed=0)
    rng = np.random.default_rng(0)
    sides = [(24, 24), (3, 5), (16, 16), (4, 4), (5, 3), (1, 7), (16, 16), (4, 5), (2, 40)]
    pictures = [rng.integers(0, 256, (14 * h, 14 * w, 3), np.uint8) for h, w in sides]
    weights = [torch.randn(h * w, MICRO.vision_width) for h, w in sides]

    def gradients(features: list[torch.Tensor]) -> list[torch.Tensor]:
        network.vision.zero_grad()
        torch.stack([(f * w).sum() for f, w in zip(features, weights, strict=True)]).sum().backward()
        return [p.grad.clone() for p in network.vision.parameters()]

    together = encode_pictures(network.vision, pictures)
    alone = [
        network.vision(
            pixel_values=patchify(picture),
            grid_thw=torch.tensor([(1, *grid)]),
            merge_sizes=torch.ones(1, dtype=torch.long),
        ).last_hidden_state
        for picture, grid in zip(pictures, sides, strict=True)
    ]
    for one, other in zip(together, alone, strict=True):
        # Sums in another order: float32 differs in its last bits.
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    for one, other in zip(gradients(together), gradients(alone), strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() + 1e-4


@pytest.mark.parametrize("count", [1, 4, 16, 64])
def test_tokens_of_many_objects_are_those_of_each(count):
    chance = torch.Generator().manual_seed(count)
    lengths = [1, 3, count, count + 1, 2 * count + 1, 90]
    objects = [torch.randn(length, 8, generator=chance).requires_grad_() for length in lengths]
    objects[-1] = objects[-1][:1].expand(90, -1).detach().requires_grad_()  # all alike: clusters empty
    padded = torch.stack([torch.nn.functional.pad(own, (0, 0, 0, 130 - len(own))) for own in objects])
    together = aggregate_all(padded, torch.tensor(lengths), count)
    alone = torch.stack([aggregate(own, count) for own in objects])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    weights = torch.randn(together.shape, generator=chance)
    for one, other in zip(
        torch.autograd.grad((together * weights).sum(), objects),
        torch.autograd.grad((alone * weights).sum(), objects),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_half_precision_changes_the_loss_little(folder, batches):
    network = new_network(folder, seed=0)
    whole = losses(network, batches[0], bf16=False)["loss"]
    half = losses(network, batches[0], bf16=True)["loss"]
    half.backward()
    # bfloat16 has 8 bits: products are right to 0.4 %, and a mean over many answers to less.
    torch.testing.assert_close(half, whole, rtol=1e-2, atol=0)


def test_rows_of_like_length_together_have_the_loss_of_all_in_one(folder, batches, monkeypatch):
    network = new_network(folder, seed=0)
    whole = answer_loss(network, batches[0])
    monkeypatch.setattr(language_loss, "_FEWEST_TOKENS", 1)
    parts = answer_loss(network, batches[0])
    torch.testing.assert_close(parts.loss, whole.loss, atol=1e-5, rtol=1e-5)
    assert (parts.right, parts.answers, parts.tokens) == (whole.right, whole.answers, whole.tokens)


def test_pictures_that_do_not_teach_are_seen_all_the_same(folder):
    network = new_network(folder, seed=0)

    def batch(surroundings: float) -> Batch:
        own = WorldBatches(folder, network.config, STAGE, seed=1, scenes=2, surroundings=surroundings)
        return own[0]

    some, every = batch(0.4), batch(1.0)
    count = len(some.crops)
    assert all(some.learns[:count])
    assert 0 < sum(some.learns[count:]) < count + len(some.frames)
    assert some.learns == batch(0.4).learns
    torch.testing.assert_close(answer_loss(network, some).loss, answer_loss(network, every).loss)


def test_validation_keeps_the_best_weights_of_a_stage(folder, tmp_path):
    network = new_network(folder, seed=0)
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


def test_validation_judges_greedy_answers_and_changes_nothing(folder):
    network = new_network(folder, seed=0)
    tokenizer = tokenizer_of(folder)
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


def test_every_part_gets_gradients(folder, batches):
    network = new_network(folder, seed=0)
    answer_loss(network, batches[0]).loss.backward()
    learner = Learner(network)
    without = [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.any()]
    # What a key's bias adds is the same for every key, and a softmax ignores it; the vision encoder's last
    # norm is the only other part that may be unused.
    assert [name for name in without if not name.endswith(("k_proj.bias", "in_proj_bias"))] == []


def test_the_loss_of_a_fixed_batch_falls_until_its_answers_are_right(folder, tmp_path):
    pictures = Stage("fixed", ("category", "color", "place"), SCENE, questions=4, moments=1)
    network = new_network(folder, seed=0)
    batch = WorldBatches(folder, network.config, pictures, seed=2, scenes=1)[0]
    learner = Learner(network).train()
    groups = parameter_groups({6e-3: [learner]}, weight_decay=0.0)
    loop = Loop("fixed", learner, groups, tmp_path, Pace(steps=70, log_every=1))
    loop.run([batch] * 70, lambda item: losses(network, item, bf16=False))
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    first, last = float(rows[0]["loss"]), float(rows[-1]["loss"])
    assert last < 0.2 * first
    assert float(rows[-1]["right"]) > float(rows[0]["right"])


def test_a_run_that_stops_goes_on_as_if_it_had_not(folder, batches, tmp_path):
    batch = batches[0]

    def go_on(out, steps: int) -> tuple[dict[str, torch.Tensor], Loop]:
        network = new_network(folder, seed=0)
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


def test_a_state_of_other_steps_is_refused(folder, batches, tmp_path):
    network = new_network(folder, seed=0)
    learner = Learner(network)
    groups = parameter_groups({1e-3: [learner]}, weight_decay=0.0)
    Loop("s", learner, groups, tmp_path, Pace(steps=4)).save()
    with pytest.raises(ParameterError, match="4 steps"):
        Loop("s", learner, groups, tmp_path, Pace(steps=5)).resume()


def test_each_part_has_its_own_rate_and_norms_do_not_decay(folder):
    learner = Learner(new_network(folder, seed=0))
    groups = parameter_groups(rates_of(learner, Rates(1e-3, 0.0, 2e-4)), weight_decay=0.1)
    assert {group["lr"] for group in groups} == {1e-3, 2e-4}
    assert not any(p.requires_grad for p in learner.vision.parameters())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert all(p.dim() >= 2 for group in groups if group["weight_decay"] for p in group["params"])
    assert id(learner.language.model.embed_tokens.weight) not in decayed
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in learner.parameters() if p.requires_grad}


def test_muon_steps_the_matrices_of_hidden_layers_alone(folder):
    learner = Learner(new_network(folder, seed=0))
    layers = [learner.vision.encoder, learner.language.model.layers]
    groups = parameter_groups({1e-3: [learner]}, weight_decay=0.1, hidden=layers)
    turned = {id(p) for group in groups if "muon" in group for p in group["params"]}
    assert turned == {id(p) for module in layers for p in module.parameters() if p.dim() == 2}
    trained = [id(p) for group in groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(learner.parameters()))


def test_two_stages_leave_a_checkpoint_that_answers(tmp_path):
    settings = LanguageSettings(
        seed=1,
        attribute_steps=1,
        attribute_scenes=1,
        reading_steps=1,
        reading_scenes=1,
        steps=(2, 1),
        scenes=1,
        sizes=MICRO,
        workers=0,
        log_every=1,
        validate_every=0,
    )
    assert train_language(tmp_path, settings)
    model = PixelReferLite.from_pretrained(tmp_path)
    example: Example = next(scene_examples(scene_seeds("val", 0, 1)[0], 1, settings=SCENE))
    assert isinstance(ask(model, example), str)
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
