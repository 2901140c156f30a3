"""The times of a pipeline's stages: a step passes through all of them, one after the other. It knows no request and no clock.

With the roofline each stage takes what its layers take (`stages`), the embedding or the head where it has one, and the host
time of a step of its own. Between two stages the residual stream, tokens * hidden elements, goes over the network between
nodes, each of the `tp` devices sending its share of it:

    send(n) = latency + n * hidden * bytes / (tp * network)

A device without a known network sends over its link. The latency, 10 us, is an assumption. A stage that has sent is free: the
way to the next one takes none of its time.

Any other latency model is cut evenly: a stage takes its share of the pass; what a fit says of the pass holds the way between
stages, or leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from phasewise.core.errors import InputError
from phasewise.core.model import ModelSpec
from phasewise.core.spec import DeviceSpec
from phasewise.core.step import Chunk, Piece
from phasewise.core.steptimes import StepTimes
from phasewise.core.units import NS_PER_S
from phasewise.perf.efficiency import Efficiency
from phasewise.perf.latency import LatencyModel
from phasewise.perf.roofline import Roofline
from phasewise.perf.stages import stages

SEND_LATENCY_NS = 10_000.0
NS_PER_US = 1e3


@runtime_checkable
class StagedModel(LatencyModel, Protocol):
    """A latency model of a pipeline: `pieces` are of one batch alone, from the first stage to the end of the last."""

    def stages_ns(self, chunks: Sequence[Chunk], decodes: int, context: int) -> tuple[float, ...]:
        """How long each stage works on one step, nanoseconds, each at least 1; arguments as those of `pieces`."""
        ...

    def send_ns(self, tokens: int) -> float:
        """How long a step of so many tokens is on its way from a stage to the next, nanoseconds."""
        ...


class StagedRoofline:
    """The roofline of `pp` stages of `tp` devices each; a `StagedModel`. Arguments and errors as `Roofline`'s, and InputError
    for a `pp` that leaves a stage without a layer, or above 1 on a device with neither network nor link."""

    def __init__(
        self,
        model: ModelSpec,
        device: DeviceSpec,
        tp: int,
        pp: int,
        efficiency: Efficiency,
        host_s: float | None = None,
        tile: int = 0,
    ) -> None:
        link = device.network_gb_s or device.link_gb_s
        if pp > 1 and not link:
            raise InputError(f"pp {pp} needs a network or a link between devices, and {device.name} has none")
        parts = stages(model, pp)
        rooflines = {
            part: Roofline(part.model, device, tp, efficiency, host_s, tile, part.first, part.last) for part in parts
        }
        self._distinct = tuple(rooflines.values())
        self._which = tuple(list(rooflines).index(part) for part in parts)
        self._whole = Roofline(model, device, tp, efficiency, host_s, tile)
        self._send_byte_ns = model.hidden * model.dtype_bytes / (tp * link) if pp > 1 else 0.0
        self._between = pp - 1
        self._host_ns = (efficiency.host_s if host_s is None else host_s) * NS_PER_S

    @property
    def basis(self) -> str:
        """What the times rest on, in words that every output repeats."""
        return self._whole.basis

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        """Times of `steps` identical iterations of a batch that is alone in the pipeline; see `LatencyModel`."""
        more = self._between * (self._host_ns + self.send_ns(_tokens(chunks, decodes)))
        return _longer(self._whole.pieces(chunks, decodes, context, steps), more)

    def stages_ns(self, chunks: Sequence[Chunk], decodes: int, context: int) -> tuple[float, ...]:
        """See `StagedModel`."""
        times = [part.pieces(chunks, decodes, context, 1)[0][0] for part in self._distinct]
        return tuple([times[i] for i in self._which])

    def send_ns(self, tokens: int) -> float:
        """See `StagedModel`."""
        return SEND_LATENCY_NS + tokens * self._send_byte_ns if self._between else 0.0


class EvenStages:
    """Any latency model cut into `pp` even stages; a `StagedModel`.

    `times` says what of its pass is not divided: in a step with prompt chunks each stage pays `stage_us` in whole, and the
    first stage alone pays `first_us` and `first_context_us` for each token of context that is read (None: all is divided).
    """

    def __init__(self, model: LatencyModel, pp: int, times: StepTimes | None = None) -> None:
        self._model, self._pp = model, pp
        self._stage_ns = times.stage_us * NS_PER_US if times else 0.0
        self._first_ns = times.first_us * NS_PER_US if times else 0.0
        self._first_context_ns = times.first_context_us * NS_PER_US if times else 0.0

    @property
    def basis(self) -> str:
        """What the times rest on, in words that every output repeats."""
        return self._model.basis

    def pieces(self, chunks: Sequence[Chunk], decodes: int, context: int, steps: int) -> tuple[Piece, ...]:
        """Times of `steps` identical iterations of a batch that is alone in the pipeline; see `LatencyModel`."""
        more = (self._pp - 1) * self._stage_ns if chunks else 0.0
        return _longer(self._model.pieces(chunks, decodes, context, steps), more)

    def stages_ns(self, chunks: Sequence[Chunk], decodes: int, context: int) -> tuple[float, ...]:
        """See `StagedModel`."""
        pass_ns = self._model.pieces(chunks, decodes, context, 1)[0][0]
        reads = context + decodes + sum(chunk.start + chunk.tokens for chunk in chunks)
        first = self._first_ns + self._first_context_ns * reads
        each = self._stage_ns if chunks else 0.0
        share = max(1.0, (pass_ns - first - each) / self._pp + each)
        return (share + first, *[share] * (self._pp - 1))

    def send_ns(self, tokens: int) -> float:
        """See `StagedModel`: nothing, beyond what the pass holds."""
        return 0.0


def staged(model: LatencyModel, pp: int) -> StagedModel:
    """The model itself if it knows its stages, or cut into `pp` even ones."""
    return model if isinstance(model, StagedModel) else EvenStages(model, pp)


def _tokens(chunks: Sequence[Chunk], decodes: int) -> int:
    return decodes + sum(chunk.tokens for chunk in chunks)


def _longer(pieces: tuple[Piece, ...], more_ns: float) -> tuple[Piece, ...]:
    """The same steps, each longer by so much."""
    return tuple((first + more_ns, slope, steps) for first, slope, steps in pieces) if more_ns else pieces
