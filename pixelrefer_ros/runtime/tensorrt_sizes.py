# SPDX-License-Identifier: Apache-2.0
"""The sizes that symbols of a graph may take in its engine, for all runs, prompts and decoding steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pixelrefer_ros.runtime.manifest import Graph, Profile, TensorSpec


def cache_sizes(graph: Graph) -> set[str]:
    """The symbols of a graph's in-place caches alone: their capacity. TensorRT wants it fixed."""
    caches = {name for name, _ in graph.in_place}
    others = {size for spec in graph.inputs if spec.name not in caches for size in spec.shape}
    return {size for name in caches for size in graph.input(name).shape if isinstance(size, str)} - others


def engine_sizes(graph: Graph, profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """The sizes that symbols may take in an engine: the capacity of caches is fixed at its most."""
    fixed = cache_sizes(graph)
    return {
        symbol: Profile(sizes.max, sizes.max, sizes.max) if symbol in fixed else sizes
        for symbol, sizes in profiles.items()
    }


def engine_graph(graph: Graph, profiles: Mapping[str, Profile]) -> Graph:
    """A graph as its engine is: the sizes of `profiles`, and the capacity of caches a plain number.

    Args:
        graph: of the manifest.
        profiles: see `engine_sizes`.
    """
    fixed = {symbol: profiles[symbol].max for symbol in cache_sizes(graph)}

    def settled(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            replace(spec, shape=tuple(fixed.get(str(size), size) for size in spec.shape)) for spec in specs
        )

    return replace(
        graph,
        inputs=settled(graph.inputs),
        outputs=settled(graph.outputs),
        profiles={symbol: sizes for symbol, sizes in profiles.items() if symbol not in fixed},
    )


def prompt_sizes(graph: Graph, profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """The sizes of all runs but the steps of `step_sizes`: caches have two entries at most.

    Prompts are computed one at a time. TensorRT sets memory aside for the largest run that a profile allows,
    and several prompts of full length need several times that of one. Two are allowed although one is enough:
    where it is certain to be one, TensorRT RTX wants some weights (of the 2B shape the last matrix, 0.47 GB)
    in another order than steps do, and the plan holds them twice.
    """
    if step_sizes(graph, profiles) is None:
        return dict(profiles)
    entries = {graph.input(name).shape[0] for name, _ in graph.in_place}
    return {
        symbol: Profile(sizes.min, sizes.min, min(2 * sizes.min, sizes.max)) if symbol in entries else sizes
        for symbol, sizes in profiles.items()
    }


def step_sizes(graph: Graph, profiles: Mapping[str, Profile]) -> dict[str, Profile] | None:
    """The sizes of one decoding step: symbols that are not of a cache at their smallest.

    Returns:
        None for a graph with no caches updated in place, or with nothing else that changes size.
    """
    of_caches = {size for name, _ in graph.in_place for size in graph.input(name).shape}
    steps = {
        symbol: sizes if symbol in of_caches else Profile(sizes.min, sizes.min, sizes.min)
        for symbol, sizes in profiles.items()
    }
    return steps if graph.in_place and steps != profiles else None
