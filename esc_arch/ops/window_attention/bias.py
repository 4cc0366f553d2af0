"""From the table of relative positions to the bias of every pair of tokens."""

import torch
from torch import Tensor


def relative_position_bias(table: Tensor, window: int) -> Tensor:
    """Bias of every query-key pair of a window.

    The offset is key minus query: ``table[h, (ky-qy+w-1) * (2w-1) + (kx-qx+w-1)]``.
    With the queries in reverse order each query's biases are one w x w patch of the
    table, so the patches are views of it and no index is needed: an index of a 32 x 32
    window would take 8 MB.

    Args:
        table: (h, (2*window - 1)**2).
        window: side of the window in pixels.

    Returns:
        (h, n, n), n = window * window: queries first, then keys.

    Source: ESC, arXiv 2503.06671; the table is that of Swin, arXiv 2103.14030.
    """
    side = 2 * window - 1
    # (h, qy, 2w-1, ky), then (h, qy, qx, ky, kx); qx is turned around by the copy that
    # the result needs in any case.
    rows = table.view(-1, side, side).unfold(1, window, 1).flip(1)
    patches = rows.unfold(2, window, 1)
    reverse = torch.arange(window - 1, -1, -1, device=table.device)
    return patches.index_select(2, reverse).reshape(-1, window * window, window * window)
