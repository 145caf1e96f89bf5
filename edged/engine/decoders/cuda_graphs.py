"""Steps of one token a sequence, for all sequences of a slab at once; on a GPU replayed from a recording.

A step of a small model is a thousand kernels that run for a millisecond and take ten to start. A CUDA graph starts
them as one. It is recorded for a few sizes only: rows and lengths are rounded up, and what is too much is masked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import torch
from torch.nn import functional as F  # noqa: N812 - the name that everybody knows it by

from edged.engine.decoders.kv_cache import SequenceKV
from edged.engine.decoders.slab import SPARE_PLACE, Slab, gathered
from edged.engine.weights.architectures.architecture import DecoderShape

log = structlog.get_logger(__name__)

_LEAST_SEEN = 256  # places that the smallest recording looks at

# (layer, queries (rows, heads, head_dim), keys and values (rows, kv_heads, head_dim)) -> (rows, heads x head_dim)
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
# (tokens (rows,), positions (rows,), attention) -> logits (rows, vocab)
Forward = Callable[[torch.Tensor, torch.Tensor, Attend], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: torch.Tensor  # (3, rows): tokens, positions, starts
    logits: torch.Tensor


class Steps:
    """Runs one token of each sequence.

    Attributes:
        slab: where the sequences are.
    """

    def __init__(self, slab: Slab, forward: Forward, shape: DecoderShape) -> None:
        """`forward` is the model's, with what attention is left open."""
        self.slab = slab
        self._shape = shape
        self._forward = forward
        self._device = slab.keys.device
        self._records = self._device.type == "cuda"
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._pool = torch.cuda.graph_pool_handle() if self._records else None

    def run(self, tokens: Sequence[int], sequences: Sequence[SequenceKV]) -> torch.Tensor:
        """Give the logits after each token, fp32 on the CPU: (sequences, vocab). `length` stays as it is."""
        starts = [kv.start for kv in sequences if kv.start is not None]
        rows = _power_of_two(len(tokens))
        seen = max(_LEAST_SEEN, _power_of_two(1 + max(kv.length for kv in sequences)))
        inputs = torch.full((3, rows), SPARE_PLACE)
        inputs[:, : len(tokens)] = torch.tensor([tokens, [kv.length for kv in sequences], starts])
        recording = self._recording(inputs, seen)
        if recording is None:
            logits = self._compute(inputs.to(self._device), seen)
        else:
            recording.inputs.copy_(inputs)
            recording.graph.replay()
            logits = recording.logits
        return logits[: len(tokens)].cpu()

    def _compute(self, inputs: torch.Tensor, seen: int) -> torch.Tensor:
        """Run the model on `inputs` (3, rows), whose sequences are not longer than `seen`."""
        tokens, positions, starts = inputs
        rows = tokens.shape[0]
        here = starts + positions
        ahead = torch.arange(seen, device=inputs.device).expand(rows, -1)
        # Beyond its end a row sees its own last token again, which is a number at least; the mask leaves it out.
        places = (starts[:, None] + torch.minimum(ahead, positions[:, None])).flatten()
        nothing = torch.zeros((rows, seen), dtype=self.slab.keys.dtype, device=inputs.device)
        masks = {}
        for window in self._shape.windows:
            unseen = ahead > positions[:, None]
            if window:
                unseen = unseen | (ahead <= positions[:, None] - window)
            masks[window] = nothing.masked_fill(unseen, float("-inf"))[:, None, None]

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            keys, values = self.slab.keys[layer], self.slab.values[layer]
            keys.index_copy_(1, here, k.transpose(0, 1))
            values.index_copy_(1, here, v.transpose(0, 1))
            answer = F.scaled_dot_product_attention(
                q.view(rows, keys.shape[0], -1, q.shape[-1]),
                gathered(keys, places, rows),
                gathered(values, places, rows),
                attn_mask=masks[self._shape.layer_kinds[layer].window],
                scale=self._shape.attention_scale,
            )
            return answer.reshape(rows, -1)

        return self._forward(tokens, positions, attend).float()

    def _recording(self, inputs: torch.Tensor, seen: int) -> _Recording | None:
        size = (inputs.shape[1], seen)
        if self._records and size not in self._recordings:
            try:
                self._recordings[size] = self._record(inputs.to(self._device), seen)
            except RuntimeError as error:
                log.warning("steps_not_recorded", reason=str(error))
                self._records = False
        return self._recordings.get(size) if self._records else None

    def _record(self, inputs: torch.Tensor, seen: int) -> _Recording:
        """Record a step. Source: pytorch.org/docs, "CUDA semantics", CUDA graphs."""
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self._compute(inputs, seen)  # what libraries set up at first use is not to be recorded
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # They share their memory: none runs while another does, and its logits are copied before the next.
        with torch.cuda.graph(graph, pool=self._pool):
            logits = self._compute(inputs, seen)
        return _Recording(graph, inputs, logits)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
