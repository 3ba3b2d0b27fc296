"""One thread, so that sums come out the same and the tests do not fight over cores."""

import torch
from hypothesis import settings

torch.set_num_threads(1)

# A busy machine is no failure, and the same examples each time make a red run reproducible.
settings.register_profile("hedgerow", deadline=None, derandomize=True)
settings.load_profile("hedgerow")
