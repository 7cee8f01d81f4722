# SPDX-License-Identifier: Apache-2.0
"""Training PixelRefer-Lite sees what inference sees: batches, features, object tokens and the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from micro_language import MICRO, SCENE, STAGE

from pixelrefer_ros.model import PixelReferLite, patchify
from pixelrefer_ros.model.kmeans import aggregate
from pixelrefer_ros.training import language_pass
from pixelrefer_ros.training.checkpoints import (
    new_network,
    trainable_network,
)
from pixelrefer_ros.training.data import Batch, make_batch
from pixelrefer_ros.training.language import (
    losses,
)
from pixelrefer_ros.training.language_loss import (
    answer_loss,
    keep_features,
    prompt_embeddings,
    view_tokens,
)
from pixelrefer_ros.training.language_pass import Packed, encode_rows
from pixelrefer_ros.training.region_pass import aggregate_all
from pixelrefer_ros.training.text_rows import IGNORED
from pixelrefer_ros.training.vision_pass import encode_pictures
from pixelrefer_ros.training.world import (
    scene_examples,
)
from pixelrefer_ros.training.world_data import WorldBatches

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_batch_is_the_same_whoever_draws_it(micro_batches):
    one, again, other = micro_batches[3], micro_batches[3], micro_batches[4]
    assert torch.equal(one.rows.ids, again.rows.ids)
    assert all((a.image == b.image).all() for a, b in zip(one.crops, again.crops, strict=True))
    assert one.rows.ids.shape != other.rows.ids.shape or not torch.equal(one.rows.ids, other.rows.ids)


def test_labels_are_the_answers_and_their_end(micro_folder, micro_batches):
    model = PixelReferLite.from_pretrained(micro_folder)
    examples = micro_batches.examples(0)
    batch = micro_batches[0]
    assert len(batch.rows.ids) == len(examples)
    for row, example in enumerate(examples):
        answer = batch.rows.labels[row][batch.rows.labels[row] != IGNORED].tolist()
        assert model._tokenizer.decode(answer) == example.answer
        assert answer[-1] in model._tokenizer.stop_ids


def test_views_are_shared_between_questions(micro_batches):
    examples, batch = micro_batches.examples(0), micro_batches[0]
    asked = sum(len(of_region) for example in examples for of_region in example.masks)
    assert len(batch.views) == asked
    assert len(batch.crops) == len(set(batch.views)) < asked
    assert len(batch.frames) == len(set(batch.frame_of)) <= len(batch.crops)


def test_training_sees_what_inference_sees(micro_folder):
    model = PixelReferLite.from_pretrained(micro_folder)
    network = trainable_network(micro_folder)
    example = next(e for e in scene_examples(5, 8, settings=SCENE) if len(e.frames) == 1)
    batch = make_batch([example], model._tokenizer, model.config)
    trained = prompt_embeddings(network, batch)  # of one prompt: packed as it is
    frame = example.frames[0]
    tokens = model.encode_objects(
        frame.rgb, [masks[0] for masks in example.masks], model.encode_global(frame.rgb)
    )
    prompt = batch.rows.ids[0][batch.rows.labels[0] == IGNORED].tolist()
    served = model.network.prompt_embeddings(prompt, tokens)
    # The same float32 weights in passes of other sizes: sums differ in their last bits only.
    torch.testing.assert_close(trained[: len(prompt)], served, atol=2e-5, rtol=1e-4)


def test_pictures_together_are_what_the_encoder_makes_of_each(micro_folder):
    network = new_network(micro_folder, seed=0)
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


@pytest.mark.usefixtures("uncompiled")
def test_half_precision_changes_the_loss_little(micro_folder, micro_batches):
    network = new_network(micro_folder, seed=0)
    whole = losses(network, micro_batches[0], bf16=False)["loss"]
    half = losses(network, micro_batches[0], bf16=True)["loss"]
    half.backward()
    # bfloat16 has 8 bits: products are right to 0.4 %, and a mean over many answers to less.
    torch.testing.assert_close(half, whole, rtol=1e-2, atol=0)


def test_prompts_in_several_passes_have_the_loss_of_all_in_one(micro_folder, micro_batches, monkeypatch):
    network = new_network(micro_folder, seed=0)
    whole = answer_loss(network, micro_batches[0])
    monkeypatch.setattr(language_pass, "TOKENS_PER_PASS", {"cpu": 100})
    parts = answer_loss(network, micro_batches[0])
    torch.testing.assert_close(parts.loss, whole.loss, atol=1e-5, rtol=1e-5)
    assert (parts.right, parts.answers, parts.tokens) == (whole.right, whole.answers, whole.tokens)


@pytest.mark.parametrize("most", [1, 60, 4096])
def test_packed_prompts_have_the_states_and_gradients_of_padded_ones(
    micro_folder, micro_batches, monkeypatch, most
):
    monkeypatch.setattr(language_pass, "TOKENS_PER_PASS", {"cpu": most})
    network = new_network(micro_folder, seed=0)
    model, packed = network.language.model, Packed.of(text := micro_batches[0].rows)
    assert sorted(packed.lengths) == packed.lengths and len(set(packed.lengths)) > 1
    weights = torch.randn(
        len(packed.rows), model.config.hidden_size, generator=torch.Generator().manual_seed(0)
    )

    def gradients(states: torch.Tensor) -> list[torch.Tensor]:
        model.zero_grad()
        (states * weights).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    together, [first, last] = encode_rows(
        model, model.embed_tokens(packed.of_token(text.ids)), packed, (1, len(model.layers))
    )
    padded = model(input_ids=text.ids, use_cache=False, output_hidden_states=True)
    # Sums in another order: float32 differs in its last bits.
    torch.testing.assert_close(together, packed.of_token(padded.last_hidden_state), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first, packed.of_token(padded.hidden_states[1]), atol=1e-5, rtol=1e-4)
    assert torch.equal(last, together)
    alone = gradients(packed.of_token(padded.last_hidden_state))
    for one, other in zip(gradients(together), alone, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() + 1e-4


def test_pictures_that_do_not_teach_are_seen_all_the_same(micro_folder):
    network = new_network(micro_folder, seed=0)

    def batch(surroundings: float) -> Batch:
        own = WorldBatches(micro_folder, network.config, STAGE, seed=1, scenes=2, surroundings=surroundings)
        return own[0]

    some, every = batch(0.4), batch(1.0)
    count = len(some.crops)
    assert all(some.learns[:count])
    assert 0 < sum(some.learns[count:]) < count + len(some.frames)
    assert some.learns == batch(0.4).learns
    torch.testing.assert_close(answer_loss(network, some).loss, answer_loss(network, every).loss)


def test_kept_features_give_the_same_tokens_and_let_the_pictures_go(micro_folder, micro_batches):
    network = new_network(micro_folder, seed=0)
    seen, kept = micro_batches[0], micro_batches[0]
    with torch.no_grad():
        wanted = view_tokens(network, seen)
        keep_features(network, kept)
        found = view_tokens(network, kept)
    assert kept.frames == []
    assert not any(crop.image.size or crop.context.size for crop in kept.crops)
    # float16 has 11 bits; k-means of features so near chooses the same groups here
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=2e-3)
    before = [feature.data_ptr() for feature in kept.features]
    keep_features(network, kept)
    assert [feature.data_ptr() for feature in kept.features] == before, "a batch is encoded once"


def test_features_are_kept_only_where_the_vision_encoder_stays(micro_folder, micro_batches):
    network = new_network(micro_folder, seed=0)
    batch = micro_batches[0]
    losses(network, batch, bf16=False)
    assert batch.features == [] and batch.frames
    network.vision.requires_grad_(False)
    losses(network, batch, bf16=False)["loss"].backward()
    assert len(batch.features) == 2 * len(batch.crops) + len(set(batch.frame_of))
    assert network.object_encoder.pos_linear.weight.grad is not None
