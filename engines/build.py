# SPDX-License-Identifier: Apache-2.0
"""One graph to the bytes of one TensorRT engine.

Whoever changes what is built of the same graph, here or in `network`, `attention`, `profiles` and
`pixelrefer_ros.runtime.tensorrt_sizes`, raises `pixelrefer_ros.runtime.tensorrt_plans.BUILDER`: else engines
of before are taken for up to date.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pixelrefer_ros.engines.network import ATTENTION, Network, read_network
from pixelrefer_ros.engines.progress import Bar, progress_monitor

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime import never
from pixelrefer_ros.runtime.manifest import Graph, Profile
from pixelrefer_ros.runtime.tensorrt_messages import heard, shown
from pixelrefer_ros.runtime.tensorrt_sizes import cache_sizes, engine_sizes, prompt_sizes, step_sizes
from pixelrefer_ros.runtime.whole_files import write_whole

if TYPE_CHECKING:
    from typing_extensions import Buffer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        workspace_mb: GPU memory that building may use for scratch, in MiB.
        timing_cache: a file of kernel timings, read and then written; None: timings are not kept.
        compute_capabilities: to build for, as (major, minor), with no GPU at hand: only TensorRT RTX can.
            Empty: for the GPU of this machine.
        fused: a graph that does not build with fused attention is an error; else its attention is taken
            apart, which is slower.
        allow_warnings: warnings of the parser do not stop the build.
        bar: shows progress, like ``tqdm.tqdm``; None: nothing is shown.
        stopped: asked often while building; True ends it.
    """

    workspace_mb: int
    timing_cache: Path | None = None
    compute_capabilities: Sequence[tuple[int, int]] = ()
    fused: bool = False
    allow_warnings: bool = False
    bar: Bar | None = None
    stopped: Callable[[], bool] = never


@dataclass(frozen=True)
class BuiltEngine:
    """What came out.

    Attributes:
        plan: the engine's bytes, in TensorRT's own memory: a copy of them would be gigabytes.
        profiles: the sizes that symbols may take in it.
        layers: how many layers of each type TensorRT read.
        notes: for people: what TensorRT warned of, attention that is not fused.
    """

    plan: Buffer
    profiles: Mapping[str, Profile]
    layers: Counter[str]
    notes: tuple[str, ...]

    @property
    def plan_bytes(self) -> int:
        """How many bytes the plan has."""
        return memoryview(self.plan).nbytes


def build_engine(
    trt: ModuleType,
    folder: Path,
    graph: Graph,
    *,
    precision: str,
    profiles: Mapping[str, Profile],
    options: BuildOptions,
) -> BuiltEngine:
    """Builds the engine of one graph. The precision is the graph's own: the network is strongly typed.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        folder: the exported one.
        graph: of its manifest.
        precision: of its manifest.
        profiles: the sizes of each symbol of the inputs; the capacity of caches is fixed at its most.
        options: how.

    Returns:
        The engine. Graphs with caches updated in place have two optimisation profiles: 0 for one prompt (see
        `prompt_sizes`), 1 for one step of decoding (see `step_sizes`); others have one, for any sizes.

    Raises:
        BackendError: TensorRT cannot read or build it, or was stopped.
    """
    sizes = engine_sizes(graph, profiles)
    network = read_network(
        trt,
        folder,
        graph,
        fixed={symbol: sizes[symbol].max for symbol in cache_sizes(graph)},
        allow_warnings=options.allow_warnings,
    )
    if precision == "fp32":  # for which there is no fused kernel
        network.take_attention_apart()
    notes: list[str] = []
    try:
        plan, said = _plan(trt, network, graph, sizes, options)
    except _FailedError as error:
        # Why it failed is not asked: each version, and each kind of kernel that is missing, says it in other
        # words. A build that fails for another reason fails again.
        if precision == "fp32" or options.fused or not network.layers[ATTENTION]:
            raise
        network.take_attention_apart()
        plan, said = _plan(trt, network, graph, sizes, options, before=error)
        notes.append(f"it does not build with fused attention ({error.said}): taken apart, which is slower")
    notes[:0] = [f"TensorRT: {text}" for text in shown([*network.said, *said])]
    return BuiltEngine(plan, sizes, network.layers, tuple(notes))


class _FailedError(BackendError):
    """A build that failed and was not stopped."""

    def __init__(self, graph: Graph, options: BuildOptions, said: str, before: _FailedError | None) -> None:
        self.said = said
        room = f"with {options.workspace_mb} MiB of workspace"
        reasons = f"{said}; and before that, with fused attention: {before.said}" if before else said
        super().__init__(f"graph {graph.name}: TensorRT cannot build it {room}: {reasons}")


def _plan(
    trt: ModuleType,
    network: Network,
    graph: Graph,
    profiles: Mapping[str, Profile],
    options: BuildOptions,
    before: _FailedError | None = None,
) -> tuple[Buffer, list[str]]:
    """The plan, and what TensorRT said of it; `before` is a build that failed, for this one's message."""
    config = network.builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    # It is on by itself, and products of float32 would have 10 bits: also in a graph of half precision, whose
    # parts in float32 were left so because they need it.
    config.clear_flag(trt.BuilderFlag.TF32)
    for sizes in (prompt_sizes(graph, profiles), step_sizes(graph, profiles)):
        if sizes is not None:
            _add_profile(network, graph, sizes, config)
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, (major, minor) in enumerate(options.compute_capabilities):
            target = getattr(trt.ComputeCapability, f"SM{major}{minor}")
            config.set_compute_capability(target, index)
    config.progress_monitor = progress_monitor(trt, graph.name, options.bar, options.stopped)
    timings = _load_timings(config, options.timing_cache)
    with heard(trt) as messages:
        plan = network.builder.build_serialized_network(network.definition, config)
    if plan is None:
        if options.stopped():
            raise BackendError(f"graph {graph.name}: the build was stopped")
        said = "; ".join(shown(messages.errors[-3:])) or "it gives no reason"
        raise _FailedError(graph, options, said, before)
    if messages.unused_inputs:
        raise BackendError(f"graph {graph.name}: TensorRT drops an input: {messages.unused_inputs[0]}")
    if timings and options.timing_cache is not None:
        _save_timings(config, options.timing_cache)
    return plan, [*messages.errors, *messages.warnings]  # the errors are of kernels it went on without


def _add_profile(network: Network, graph: Graph, sizes: Mapping[str, Profile], config: Any) -> None:
    profile = network.builder.create_optimization_profile()
    for spec in graph.inputs:
        if any(isinstance(size, str) for size in spec.shape):
            profile.set_shape(
                spec.name,
                *(
                    tuple(
                        getattr(sizes[size], bound) if isinstance(size, str) else size for size in spec.shape
                    )
                    for bound in ("min", "opt", "max")
                ),
            )
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(
            f"graph {graph.name}: TensorRT refuses the sizes {dict(sizes)}: export the model again"
        )


def _load_timings(config: Any, path: Path | None) -> bool:
    """Gives the kept timings to the builder; False if none are to be kept."""
    if path is None:
        return False
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content)
    # Timings of another GPU or version are refused, not used; then an empty cache is filled anew.
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        return cache is not None and bool(config.set_timing_cache(cache, False))
    return True


def _save_timings(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        write_whole(path, cache.serialize())
    except OSError as error:
        _log.warning("timings are not kept: %s cannot be written (%s)", path, error)
