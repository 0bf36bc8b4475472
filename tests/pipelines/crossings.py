"""What Beam's own runner makes of a pipeline: its fused stages, and the collections that cross from one to another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
from apache_beam.coders.coder_impl import create_InputStream
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, execution, translations

from pipelines.runners import launch


@dataclasses.dataclass(frozen=True)
class Fused:
    """A stage as Beam's optimiser leaves it: names of its steps, and the hints of all of their environments."""

    steps: frozenset[str]
    hints: Mapping[str, str]


def pipelines_of(monkeypatch) -> list[Any]:
    """The protos of the pipelines that jobs would run from now on, on whichever runner; nothing is run."""
    found: list[Any] = []

    def build_only(build, arguments, resources=None):
        pipeline = beam.Pipeline(options=launch.pipeline_options(arguments, resources))
        build(pipeline)
        found.append(pipeline.to_runner_api())
        return {}

    monkeypatch.setattr(launch, "run", build_only)
    monkeypatch.setattr(launch, "check", lambda *_: None)
    return found


def stages_of(proto: Any) -> list[Fused]:
    """The stages of a pipeline."""
    context, stages = FnApiRunner().create_stages(proto)
    found = []
    for stage in stages:
        names = {stage.environment, *(step.environment_id for step in stage.transforms)} - {None, ""}
        hints = [context.components.environments[name].resource_hints.items() for name in sorted(names)]
        (only,) = {tuple(sorted((urn.split(":")[-2], value.decode()) for urn, value in each)) for each in hints} or {()}
        found.append(Fused(frozenset(step.unique_name for step in stage.transforms), dict(only)))
    return found


def passed_on(stages: list[Fused]) -> list[str]:
    """What one stage hands to another without a shuffle: collections that fusion could not keep in one stage."""
    return [step for stage in stages for step in stage.steps if step.startswith("ref_P") and step.endswith("/Read")]


@dataclasses.dataclass
class Crossing:
    """A collection that stages have written for others.

    Attributes:
        name: name of the collection, or of the step that groups or flattens it.
        sizes: encoded bytes of each element, with key, window and timestamp.
        elements: the elements, decoded.
    """

    name: str
    sizes: list[int] = dataclasses.field(default_factory=list)
    elements: list[Any] = dataclasses.field(default_factory=list)

    def add(self, data: bytes, coder: Any) -> None:
        """Adds some elements as they were sent."""
        stream = create_InputStream(data)
        while left := stream.size():
            self.elements.append(coder.decode_from_stream(stream, True).value)
            self.sizes.append(left - stream.size())


def record(monkeypatch) -> list[Crossing]:
    """Records what crosses between the stages of pipelines that run in this process, from now on."""
    found: list[Crossing] = []
    get_buffer = execution.BundleContextManager.get_buffer

    def get_recorded(self, buffer_id: bytes, transform_id: str) -> Any:
        buffer, context = get_buffer(self, buffer_id, transform_id), self.execution_context
        if "append" not in vars(buffer):
            _, name = translations.split_buffer_id(buffer_id)
            for named in (context.pipeline_components.pcollections, context.pipeline_components.transforms):
                name = named[name].unique_name if name in named else name
            port = beam_fn_api_pb2.RemoteGrpcPort.FromString(
                self.process_bundle_descriptor.transforms[transform_id].spec.payload
            )
            coder, crossing = context.pipeline_context.coders[port.coder_id].get_impl(), Crossing(name)
            found.append(crossing)

            def append(data: bytes) -> None:
                crossing.add(data, coder)
                type(buffer).append(buffer, data)

            buffer.append = append
        return buffer

    monkeypatch.setattr(execution.BundleContextManager, "get_buffer", get_recorded)
    return found
