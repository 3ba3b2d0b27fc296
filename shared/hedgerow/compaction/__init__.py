"""Compaction: channels that a mask leaves dead are removed physically, and the outputs stay the same.

>>> from torch import nn
>>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10))
>>> _ = model[0].weight.data[:6].zero_()   # six channels that no weight leads to: constants
>>> compact(model, (1, 8, 8)).program.tensors["3.weight"].shape
torch.Size([10, 72])

`load` reads what `hedgerow export RUN --to safetensors` wrote, without the code of the model:

    from pathlib import Path
    from hedgerow.compaction import load

    network = load(Path("compact.safetensors"))   # in eval mode, (N, C, H, W) float32
"""

from hedgerow.compaction.compact import Compaction, compact
from hedgerow.compaction.dead import LayerChannels, dead_channels
from hedgerow.compaction.file import COMPACT_FORMAT, DENSE_FORMAT, compact_bytes, dense_bytes, load
from hedgerow.compaction.program import Program, module_of
from hedgerow.compaction.sizes import Size, size_of
from hedgerow.compaction.tracing import trace

__all__ = [
    "COMPACT_FORMAT",
    "DENSE_FORMAT",
    "Compaction",
    "LayerChannels",
    "Program",
    "Size",
    "compact",
    "compact_bytes",
    "dead_channels",
    "dense_bytes",
    "load",
    "module_of",
    "size_of",
    "trace",
]
