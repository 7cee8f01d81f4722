# SPDX-License-Identifier: Apache-2.0
"""What a new model does before it has learned anything: it looks at neighbours, and for what is alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pixelrefer_ros.model import PATCH, patchify
from pixelrefer_ros.training.checkpoints import Sizes, new_checkpoint, new_network
from pixelrefer_ros.training.world import Renderer, SceneSettings, cast_scene

MICRO = Sizes(vision_width=32, vision_layers=1, language_width=64, language_layers=2, language_heads=2)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    new_checkpoint(folder, Sizes(), seed=0)
    return new_network(folder, seed=0)


@pytest.mark.parametrize(
    ("layer", "offsets"),
    [
        (0, [(0, 1), (1, 0), (0, -1), (-1, 0)]),
        (1, [(1, 1), (1, -1), (-1, 1), (-1, -1)]),
        (2, [(0, 2), (2, 0), (0, -2), (-2, 0)]),
        (3, [(0, 5), (5, 0), (0, -5), (-5, 0)]),
    ],
)
def test_the_first_layers_heads_look_at_neighbours(network, layer, offsets):
    side, middle = 13, 6
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    cos, sin = network.vision.rotary_pos_emb(torch.arange(side), places)
    attention = network.vision.encoder.layers[layer].self_attn
    for head, (down, across) in enumerate(offsets):
        own = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        queries, keys = (
            turned(projection.bias[own], cos, sin) for projection in (attention.q_proj, attention.k_proj)
        )
        seen = (queries[middle * side + middle] @ keys.T).argmax()
        assert divmod(int(seen), side) == (middle + down, middle + across)


def turned(bias: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = bias.detach().chunk(2)
    return bias.detach() * cos + torch.cat([-second, first]) * sin


def test_what_patches_show_is_heard_evenly(network):
    """A fine wave is not drowned by a coarse one, as it is in pictures themselves."""
    scenes = [cast_scene(seed, SceneSettings(frames=1, size=(336, 336))) for seed in range(4)]
    pixels = torch.cat([patchify(np.ascontiguousarray(Renderer(scene).rgb(0))) for scene in scenes])
    weight = network.vision.embeddings.patch_embedding.weight.detach()
    flat = weight.flatten(1)
    gram = flat @ flat.T
    assert (gram - torch.diag(gram.diagonal())).abs().max() < 1e-4 * gram.diagonal().max()
    heard = (pixels @ flat.T).std(dim=0)
    assert heard.max() / heard.min() < 20
    unit = flat / flat.norm(dim=1, keepdim=True)
    raw = (pixels @ unit.T).std(dim=0)
    assert raw.max() / raw.min() > 2 * heard.max() / heard.min()


def test_half_of_the_heads_look_for_what_is_alike_but_not_at_themselves(network):
    torch.manual_seed(0)
    language = network.language.model
    attention = language.layers[0].self_attn
    hidden = torch.randn(1, 40, network.config.language.hidden_size)
    hidden[:, 30] = hidden[:, 10]
    position = torch.arange(40)[None]
    cos, sin = language.rotary_emb(hidden, position)
    heads = attention.head_dim
    query = attention.q_proj(hidden)[..., :heads]
    key = attention.k_proj(hidden)[..., :heads]
    half = heads // 2

    def rotated(of: torch.Tensor) -> torch.Tensor:
        return of * cos + torch.cat([-of[..., half:], of[..., :half]], dim=-1) * sin

    looked = (rotated(query)[0, 30] @ rotated(key)[0, :31].T).detach()
    assert looked.argmax() == 10


def test_narrow_models_begin_too(tmp_path):
    new_checkpoint(tmp_path, MICRO, seed=0)
    network = new_network(tmp_path, seed=0)
    pictures = torch.zeros(1, 3, PATCH, PATCH)
    assert torch.isfinite(network.vision.embeddings.patch_embedding(pictures)).all()
    assert all(p.isfinite().all() for p in network.vision.parameters())
