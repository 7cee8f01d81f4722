# SPDX-License-Identifier: Apache-2.0
"""The engines of a whole exported folder."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from pixelrefer_ros.engines.build import BuildOptions, BuiltEngine, build_engine
from pixelrefer_ros.engines.profiles import MachineProfile, choose_profile
from pixelrefer_ros.engines.progress import Bar
from pixelrefer_ros.engines.store import TIMINGS, EngineStore, Say
from pixelrefer_ros.engines.versions import check_opset

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.runtime import never
from pixelrefer_ros.runtime.manifest import Graph, Manifest, read_manifest, verify_graph
from pixelrefer_ros.runtime.tensorrt_machine import on_gpu
from pixelrefer_ros.runtime.tensorrt_plans import ENGINES, Gpu, engine_key, library


@dataclass(frozen=True)
class Asked:
    """What a user asks of `build_engines`.

    Attributes:
        profile: of a shipped profile the name, or the path of a ``.yaml`` file; None: by the GPU.
        engines: where engines are kept; None: ``engines`` in the exported folder.
        graphs: the names of those to build; empty: all that are not left to the host.
        again: build also what is up to date.
        allow_warnings: warnings of TensorRT's parser do not stop it.
    """

    profile: str | None = None
    engines: Path | None = None
    graphs: Collection[str] = ()
    again: bool = False
    allow_warnings: bool = False


def build_engines(
    folder: Path,
    trt: ModuleType,
    gpu: Gpu,
    asked: Asked | None = None,
    *,
    say: Say = print,
    bar: Bar | None = None,
    stopped: Callable[[], bool] = never,
) -> list[str]:
    """Builds the engines of an exported folder that are not there or not up to date.

    Args:
        folder: the exported one.
        trt: the module ``tensorrt``.
        gpu: to build for, of this machine; see `pixelrefer_ros.runtime.tensorrt_machine.current_gpu`.
        asked: what the user asks.
        say: takes one line for people.
        bar: shows progress, like ``tqdm.tqdm``; None: nothing is shown.
        stopped: asked often while building; True ends it.

    Returns:
        The names of the graphs whose engines were built.

    Raises:
        CheckpointError: the folder is no exported one, or its files are not those of its manifest.
        ParameterError: the profile, or the precision for this profile, is wrong; or a graph is asked for that
            is left to the host.
        BackendError: TensorRT is too old for the folder, or cannot read or build a graph; or the engines
            cannot be written.
    """
    asked = asked or Asked()
    manifest = read_manifest(folder)
    profile = choose_profile(asked.profile, gpu)
    check_opset(trt, manifest.opset, str(folder))
    _check_precision(folder, manifest, profile)
    graphs = [_asked(manifest, name, folder) for name in asked.graphs] or manifest.compiled()
    store = EngineStore(asked.engines or folder / ENGINES, say, stopped)
    options = BuildOptions(
        workspace_mb=profile.workspace_mb,
        timing_cache=store.folder / TIMINGS,
        allow_warnings=asked.allow_warnings,
        bar=bar,
        stopped=stopped,
    )
    say(f"{library(trt)} on {gpu}; profile {profile.name}; {manifest.name} in {manifest.precision}")
    with on_gpu(gpu):
        return [
            graph.name
            for graph in graphs
            if store.ensure(
                graph.name,
                engine_key(
                    graph,
                    precision=manifest.precision,
                    tensorrt=library(trt),
                    gpu=gpu,
                    profile=f"{profile.name} {profile.content_hash[:12]}",
                ),
                _builder(trt, folder, graph, manifest.precision, profile, options),
                again=asked.again,
            )
        ]


def _asked(manifest: Manifest, name: str, folder: Path) -> Graph:
    graph = manifest.graph(name, folder)
    if graph.on_host:
        compiled = ", ".join(one.name for one in manifest.compiled())
        raise ParameterError(
            f"graph {name} of {folder} only looks up a table, which the host does: an engine of it would "
            f"never be opened; build {compiled}, or give no graph for all"
        )
    return graph


def _builder(
    trt: ModuleType,
    folder: Path,
    graph: Graph,
    precision: str,
    profile: MachineProfile,
    options: BuildOptions,
) -> Callable[[], BuiltEngine]:
    def build() -> BuiltEngine:
        verify_graph(folder, graph)
        return build_engine(
            trt, folder, graph, precision=precision, profiles=profile.sizes(graph), options=options
        )

    return build


def _check_precision(folder: Path, manifest: Manifest, profile: MachineProfile) -> None:
    if manifest.settings.get("int8_vision"):
        raise ParameterError(
            f"{folder} was exported with --int8-vision, which TensorRT does not run: export it again "
            "without, or run it with backend 'onnxruntime'"
        )
    if manifest.precision not in profile.precisions:
        raise ParameterError(
            f"{folder} was exported in {manifest.precision}, and profile {profile.name} takes "
            f"{', '.join(profile.precisions)}: export it again with --precision {profile.precisions[0]}, "
            "run it with backend 'onnxruntime', or give another profile with --profile (the node: "
            "engine_profile); docs/engines.md says which precisions TensorRT takes"
        )
