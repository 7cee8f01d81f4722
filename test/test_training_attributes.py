# SPDX-License-Identifier: Apache-2.0
"""The stage in which a new vision encoder learns to see: what it is shown, and that it learns from it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_language import MICRO, SHORTEST

from pixelrefer_ros.model import PATCH
from pixelrefer_ros.training.attributes import (
    ATTRIBUTES,
    SCENE,
    STAGE,
    AttributeBatches,
    AttributeHeads,
    attribute_losses,
    draw_objects,
    teach_attributes,
)
from pixelrefer_ros.training.checkpoints import new_checkpoint, new_network
from pixelrefer_ros.training.loop import read_progress
from pixelrefer_ros.training.vision_stage import scores
from pixelrefer_ros.training.world import TURNS, Renderer, Sight, cast_scene, scene_seeds
from pixelrefer_ros.training.world.splits import SEEN


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attributes")
    new_checkpoint(folder, MICRO, seed=0)
    return new_network(folder, seed=0)


def test_labels_and_turns_are_what_the_scenes_objects_are(network):
    seeds = scene_seeds("val", 0, 6)
    batch = draw_objects(seeds, network.config)
    labels, turns = iter(batch.labels.tolist()), iter(batch.turns.tolist())
    for seed in seeds:
        renderer = Renderer(cast_scene(seed, SCENE))
        sight = Sight(renderer)
        for number, spec in enumerate(renderer.scene.objects):
            if sight.recognizable(number, 0):
                named = [of[place] for of, place in zip(ATTRIBUTES.values(), next(labels), strict=True)]
                assert named == [spec.combination.shape, spec.combination.color, spec.combination.surface]
                # The same for every angle at which the shape looks the same.
                angle = spec.angle + 2 * math.pi / max(1, TURNS[spec.combination.shape])
                turned = TURNS[spec.combination.shape] * angle
                assert next(turns) == pytest.approx([math.sin(turned), math.cos(turned)], abs=1e-5)
    assert next(labels, None) is next(turns, None) is None


def test_pictures_patches_and_outlines_belong_together(network):
    batch = draw_objects(scene_seeds("val", 0, 12), network.config)
    start, margins = 0, []
    for image, own in zip(batch.images, batch.own, strict=True):
        rows, columns = image.shape[0] // PATCH, image.shape[1] // PATCH
        assert len(own) == rows * columns
        cells = batch.outlines[start : start + len(own)]
        start += len(own)
        # The patches' mask is sampled at their middles, so corners of the object lie in others (3 % seen,
        # where an object has few patches). An outline out of place by a patch would fill a third of them.
        assert cells[~own].mean() < 0.1
        assert 0.1 < cells[own].mean() <= 1.0
        grid = own.reshape(rows, columns).numpy()
        for side in (grid[1:], grid[:-1], grid[:, 1:], grid[:, :-1]):
            assert side.any()
        margins.append(min(np.flatnonzero(grid.any(axis=1))[0], np.flatnonzero(grid.any(axis=0))[0]))
    assert start == len(batch.outlines)
    assert max(margin for place, margin in enumerate(margins) if place % 4 < 3) <= 1
    sizes = np.array([len(own) for own in batch.own])
    # The others are whole, with their surroundings: as large as the budget allows, whatever they show.
    assert sizes[3::4].min() > 0.6 * sizes.max()
    assert np.delete(sizes, np.s_[3::4]).min() < 0.5 * sizes.max()


def test_a_batch_is_the_same_whoever_draws_it_and_training_shows_seen_combinations(network):
    one, other = (AttributeBatches(network.config, seed=3, scenes=4)[5] for _ in range(2))
    assert torch.equal(one.labels, other.labels)
    assert all(np.array_equal(a, b) for a, b in zip(one.images, other.images, strict=True))
    shown = {
        tuple(of[place] for of, place in zip(ATTRIBUTES.values(), row, strict=True))
        for row in one.labels.tolist()
    }
    assert shown <= {tuple(combination) for combination in SEEN}


def test_the_encoder_learns_a_fixed_batch(network):
    vision = network.vision
    torch.manual_seed(0)
    heads = AttributeHeads(network.config.vision.hidden_size)
    batch = draw_objects(scene_seeds("val", 0, 3), network.config)
    optimizer = torch.optim.AdamW([*vision.parameters(), *heads.parameters()], lr=3e-3)
    first = attribute_losses(vision, heads, batch)
    for _ in range(60):
        optimizer.zero_grad()
        values = attribute_losses(vision, heads, batch)
        values["loss"].backward()
        optimizer.step()
    assert values["loss"].item() < 0.5 * first["loss"].item()
    assert values["color"] > 0.9


def test_the_stage_goes_on_where_it_stopped(tmp_path):
    settings = replace(SHORTEST, attribute_steps=2, minutes=1e-9, validate_every=1)
    new_checkpoint(tmp_path, MICRO, seed=0)
    network = new_network(tmp_path, seed=0)
    assert not teach_attributes(network, tmp_path / "state", settings)
    assert read_progress(tmp_path / "state") == {"stage": STAGE, "step": 1, "steps": 2}
    again = new_network(tmp_path, seed=0)
    assert teach_attributes(again, tmp_path / "state", settings)
    assert read_progress(tmp_path / "state") == {"stage": STAGE, "step": 2, "steps": 2}
    assert (tmp_path / "state/validation.csv").read_text().count("attributes,") == 2


def test_validation_scores_every_attribute_and_changes_nothing(network):
    heads = AttributeHeads(network.config.vision.hidden_size)
    before = {name: value.clone() for name, value in network.vision.state_dict().items()}
    batch = draw_objects(scene_seeds("val", 0, 2), network.config)
    values = scores(attribute_losses, network.vision, heads, batch)
    assert set(values) == {"loss", "right", "turn", *ATTRIBUTES}
    assert values["right"] <= min(values[name] for name in ATTRIBUTES)
    assert all(torch.equal(before[name], value) for name, value in network.vision.state_dict().items())
