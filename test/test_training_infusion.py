# SPDX-License-Identifier: Apache-2.0
"""The stage in which a new object encoder learns to find in pictures what the language model reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from micro_language import MICRO
from safetensors.torch import load_file

from pixelrefer_ros.training.checkpoints import new_network
from pixelrefer_ros.training.infusion import infusion_losses, teach_infusion
from pixelrefer_ros.training.infusion_start import begin_infusion
from pixelrefer_ros.training.infusion_views import InfusionBatches, Seen, draw_views
from pixelrefer_ros.training.language_loss import view_tokens
from pixelrefer_ros.training.language_settings import LanguageSettings
from pixelrefer_ros.training.loop import PROGRESS, STATE, read_progress
from pixelrefer_ros.training.object_facts import OWN
from pixelrefer_ros.training.readings import Readings
from pixelrefer_ros.training.signs import Signs
from pixelrefer_ros.training.world import scene_seeds

SETTINGS = LanguageSettings(
    infusion_steps=2,
    infusion_scenes=1,
    infusion_first=3,
    sizes=MICRO,
    workers=0,
    validate_every=0,
    save_every=1,
)


@pytest.fixture
def network(micro_folder):
    return new_network(micro_folder, seed=0)


def test_a_batch_is_the_same_whoever_draws_it_and_shows_each_object_once(network):
    one, other = (InfusionBatches(network.config, seed=3, scenes=2)[16] for _ in range(2))
    assert torch.equal(one.facts.named, other.facts.named)
    assert all((a == b).all() for a, b in zip(one.pictures.images, other.pictures.images, strict=True))
    names, crops = one.pictures.names, one.pictures.crops
    assert len(set(names)) == len(names) == len(crops) == len(one.facts.named) == len(one.own)
    assert set(one.pictures.frame_of) == {0, 1}
    for (x, y), crop, own in zip(one.facts.measured[:, :2].tolist(), crops, one.own, strict=True):
        rows, columns = own.view(24, 24).nonzero().float().add(0.5).div(24).mean(dim=0).tolist()
        assert max(abs(columns - x), abs(rows - y)) < 1.5 / 24, "own patches are where the object is"
        top, left, bottom, right = crop.box
        height, width = crop.frame_size
        assert left - 2 <= x * width <= right + 2
        assert top - 2 <= y * height <= bottom + 2


def test_signs_are_read_as_what_they_say(network):
    torch.manual_seed(0)
    facts = draw_views(scene_seeds("val", 0, 6), network.config).facts
    signs = Signs(64, 4)
    tokens = signs.meaning(facts).detach()[:, None].expand(-1, 4, -1)
    told = facts.told
    assert torch.equal(signs.read(tokens, facts)[told], facts.named[told])
    assert told[:, :OWN].all()
    assert told[facts.somebody].all()
    other = signs.read(tokens.roll(1, dims=0), facts)[:, :OWN]
    assert float((other == facts.named[:, :OWN]).float().mean()) < 0.6, "and those of another object as its"
    assert facts.somebody.any()
    assert not facts.somebody[:, :OWN].any()


def test_new_scenes_join_those_that_are_kept_every_few_steps(network):
    drawn = [InfusionBatches(network.config, seed=0, scenes=1)[number] is not None for number in range(17)]
    assert [number for number, new in enumerate(drawn) if new] == [0, 8, 16]


def test_object_tokens_come_nearer_to_signs_and_the_vision_encoder_stays_as_it_is(network):
    signs = Readings.new(network, None, seed=0).frozen().signs
    seen = Seen(network)
    seen.see(draw_views(scene_seeds("val", 0, 2), network.config))
    optimizer = torch.optim.AdamW(network.object_encoder.parameters(), lr=3e-3)
    found = []
    for step in range(30):
        optimizer.zero_grad()
        losses = infusion_losses(signs, seen.some(np.random.default_rng(step), 12))
        losses["loss"].backward()
        optimizer.step()
        found.append({name: float(value) for name, value in losses.items() if name != "loss"})
    assert found[-1]["unlike"] < 0.7 * found[0]["unlike"]
    assert found[-1]["looked"] > 1.5 * found[0]["looked"], "tokens learn to look at their object"
    assert all(weight.grad is None for weight in network.vision.parameters())


def test_what_is_kept_gives_the_tokens_that_training_goes_on_with(network):
    batch = draw_views(scene_seeds("val", 0, 3), network.config)
    seen = Seen(network)
    seen.see(batch)
    with torch.no_grad():
        direct, kept = view_tokens(network, batch.pictures), seen.every()
    # Features are kept in float16, of which the last digit is a two-thousandth; k-means may tip over it.
    assert float((kept.tokens - direct).norm() / direct.norm()) < 0.02
    assert torch.equal(kept.facts.named, batch.facts.named)
    assert ((kept.looked_at > 0) & (kept.looked_at < 1)).all()


def test_an_encoder_begins_near_to_signs_and_looks_at_its_object(network):
    signs = Readings.new(network, None, seed=0).frozen().signs
    seen = Seen(network)
    seen.see(draw_views(scene_seeds("val", 0, 12), network.config))
    with torch.no_grad():
        before = infusion_losses(signs, seen.every())
    begin_infusion(network.object_encoder, seen, signs, seed=0)
    with torch.no_grad():
        after = infusion_losses(signs, seen.every())
    assert after["unlike"] < 0.8 < before["unlike"], "of these objects: with 1 every token says the mean"
    assert after["looked"] > 3 * before["looked"]
    assert after["own"] > 1.5 * before["own"]


def test_misreading_is_least_for_the_signs_themselves(network):
    torch.manual_seed(0)
    facts = draw_views(scene_seeds("val", 0, 6), network.config).facts
    signs = Signs(64, 4)
    meant = signs.meaning(facts).detach()[:, None].expand(-1, 4, -1)
    none = meant.mean(dim=0, keepdim=True).expand_as(meant)
    lost = [signs.misread(of, facts).item() for of in (meant, (meant + none) / 2, none)]
    assert lost == sorted(lost), "the nearer to what is meant, the better it is read"
    assert lost[0] < 0.8 * lost[-1]


def test_a_run_that_goes_on_between_new_scenes_draws_some(micro_folder, tmp_path, network):
    out = tmp_path / "training"
    out.mkdir()
    Readings.new(network, None, seed=0).save(out)
    teach_infusion(network, out, replace(SETTINGS, infusion_steps=3))
    (out / PROGRESS).write_text('{"stage": "infusion", "step": 2, "steps": 3}')
    assert teach_infusion(new_network(micro_folder, seed=1), out, replace(SETTINGS, infusion_steps=3))
    assert read_progress(out) == {"stage": "infusion", "step": 3, "steps": 3}


def test_without_signs_there_is_nothing_to_learn(tmp_path, network):
    assert teach_infusion(network, tmp_path / "training", SETTINGS)
    assert read_progress(tmp_path / "training") is None


def test_the_state_holds_what_was_learned_before(tmp_path, network):
    out = tmp_path / "training"
    out.mkdir()
    Readings.new(network, None, seed=0).save(out)
    parts = {"vision": network.vision, "language": network.language, "object_encoder": network.object_encoder}
    before = {
        f"{part}.{name}": value.clone()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    assert teach_infusion(network, out, SETTINGS)
    assert read_progress(out) == {"stage": "infusion", "step": 2, "steps": 2}
    state = load_file(out / STATE)
    same = {name: torch.equal(state[f"weights/{name}"], value) for name, value in before.items()}
    assert all(same[name] for name in before if not name.startswith("object_encoder."))
    assert not same["object_encoder.feat_linear.0.weight"]
