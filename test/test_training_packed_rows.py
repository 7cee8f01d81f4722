# SPDX-License-Identifier: Apache-2.0
"""Sequences of several lengths pass together, in sizes that come again; parts are compiled if it pays."""

from __future__ import annotations

import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pixelrefer_ros.training import fused as fused_module
from pixelrefer_ros.training.fused import fused
from pixelrefer_ros.training.packed_rows import attend_in_groups, groups_of, known_rows, rotate

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 16
LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=9).map(sorted)

pytestmark = pytest.mark.usefixtures("one_thread")


def mixed_rows(lengths: list[int], dtype: torch.dtype) -> torch.Tensor:
    chance = torch.Generator().manual_seed(sum(lengths))
    return torch.randn(sum(lengths), 3, HEADS, WIDTH, generator=chance).to(dtype)


def attended_alone(mixed: torch.Tensor, lengths: list[int], *, causal: bool) -> torch.Tensor:
    found = []
    for own in mixed.float().split(lengths):
        query, key, value = own.permute(1, 2, 0, 3)
        found.append(F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=0.3))
    return torch.cat([own.transpose(0, 1).flatten(1) for own in found])


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, causal=st.booleans())
def test_every_sequence_attends_to_itself_alone(lengths, causal):
    mixed = mixed_rows(lengths, torch.float32)
    found = attend_in_groups(mixed, groups_of(lengths, CPU), 0.3, causal=causal)
    # Sums in another order: float32 differs in its last bits.
    torch.testing.assert_close(found, attended_alone(mixed, lengths, causal=causal), atol=1e-5, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, causal=st.booleans())
def test_so_it_does_in_sizes_that_come_again(lengths, causal):
    mixed = mixed_rows(lengths, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        groups, rows = groups_of(lengths, CPU), known_rows(len(mixed), CPU)
        found = attend_in_groups(
            F.pad(mixed, (0, 0, 0, 0, 0, 0, 0, rows - len(mixed))), groups, 0.3, causal=causal
        )
    assert rows % 256 == 0 and rows - len(mixed) < 256
    assert all(group.length % 32 == 0 for group in groups)
    assert not found[len(mixed) :].any()
    # bfloat16 has 8 bits; products, shares and values of about 1 are each rounded to them.
    torch.testing.assert_close(
        found[: len(mixed)].float(), attended_alone(mixed, lengths, causal=causal), atol=0.06, rtol=0.03
    )


def test_sizes_are_left_as_they_are_where_they_cost_nothing():
    assert known_rows(257, CPU) == 257
    assert groups_of([3, 33], CPU)[0].length == 3
    with torch.autocast("cpu", torch.bfloat16):
        assert known_rows(257, torch.device("meta")) == 257


class Layer(nn.Module):
    """Something for every part to be taken from."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.down = nn.RMSNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)


def widened(layer: Layer, hidden: torch.Tensor, angles: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    turned = rotate(layer.norm(hidden), angles)
    return hidden + layer.down(F.silu(layer.up(turned)))


def gradients(part, layer: Layer, rows: int) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, 32, generator=chance)
    angle = torch.rand(rows, 16, generator=chance)
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        found = part(layer, hidden, (angle.cos(), angle.sin()))
    found.float().square().mean().backward()
    return [found.detach(), *(parameter.grad.clone() for parameter in layer.parameters())]


def test_a_compiled_part_computes_the_same(monkeypatch):
    compiled: list[int] = []
    monkeypatch.setattr(fused_module, "_failed", False)
    real = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda part, **how: (lambda run: lambda *args: (compiled.append(len(args[1])), run(*args))[1])(
            real(part, **how)
        ),
    )
    part, layer = fused(widened), Layer()
    for rows in (1024, 1280, 64):
        for one, other in zip(gradients(part, layer, rows), gradients(widened, layer, rows), strict=True):
            # What is rounded to bfloat16 in between (8 bits) is not the same in both.
            torch.testing.assert_close(one.float(), other.float(), atol=0.02, rtol=0.02)
    assert compiled == [1024, 1280], "few rows are not worth it"
    assert not fused_module._failed


def test_where_compiling_fails_training_goes_on_and_says_so_once(monkeypatch, caplog):
    def failing(*_: object) -> torch.Tensor:
        raise RuntimeError("no Python.h\nand much more")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: failing)
    monkeypatch.setattr(fused_module, "_failed", False)
    part, layer = fused(widened), Layer()
    with caplog.at_level(logging.WARNING):
        found = [gradients(part, layer, 1024) for _ in range(2)]
    for one, other in zip(found[0], gradients(widened, layer, 1024), strict=True):
        assert torch.equal(one, other)
    assert [record.getMessage() for record in caplog.records] == ["training goes on uncompiled: no Python.h"]


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    used: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda *args: used.append(args))
    monkeypatch.setattr(fused_module, "shutil", SimpleNamespace(which=lambda _: None))
    fused_module._has_compiler.cache_clear()
    gradients(fused(widened), Layer(), 1024)
    fused_module._has_compiler.cache_clear()
    assert used == []


TOUCHED = """
import resource, sys, torch
if sys.argv[1] == "kept":
    from pixelrefer_ros.training.kept_memory import keep_memory
    keep_memory()
ones, faults = torch.ones(1 << 24), []  # 64 MB
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    ones * 2
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))  # the first few may find no room among what else was kept
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_memory_that_was_let_go_is_had_again_as_it_is():
    faults = {
        way: int(subprocess.run([sys.executable, "-c", TOUCHED, way], capture_output=True, check=True).stdout)
        for way in ("kept", "plain")
    }
    # Pages of 4 KB (or of 2 MB, where the system gives such) that had to be cleared anew.
    assert faults["kept"] < 32 <= faults["plain"]
