"""Window attention written out in numpy, in float64."""

import numpy as np


def bias_of_pairs(table, window):
    """(h, (2w-1)**2) -> (h, n, n), queries first: the offset is key minus query."""
    side = 2 * window - 1
    n = window * window
    bias = np.empty((len(table), n, n), table.dtype)
    for qy in range(window):
        for qx in range(window):
            for ky in range(window):
                for kx in range(window):
                    index = (ky - qy + window - 1) * side + (kx - qx + window - 1)
                    bias[:, qy * window + qx, ky * window + kx] = table[:, index]
    return bias


def probabilities(q, k, bias):
    """(W, h, m, d), (W, h, n, d), (h, n, n) -> (W, h, m, n)."""
    scores = np.einsum("whmd,whnd->whmn", q, k) / np.sqrt(q.shape[-1])
    scores = scores + bias[:, : q.shape[2]]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention(q, k, v, table, window):
    return probabilities(q, k, bias_of_pairs(table, window)) @ v


def attention_gradients(q, k, v, table, window, upstream):
    """Of ``(attention(...) * upstream).sum()``, with respect to q, k, v and the table."""
    p = probabilities(q, k, bias_of_pairs(table, window))
    of_p = np.einsum("whmd,whnd->whmn", upstream, v)
    of_scores = p * (of_p - (of_p * p).sum(-1, keepdims=True))
    of_table = np.zeros_like(table)
    for query in range(q.shape[2]):
        for key in range(k.shape[2]):
            dy = key // window - query // window + window - 1
            dx = key % window - query % window + window - 1
            of_table[:, dy * (2 * window - 1) + dx] += of_scores[:, :, query, key].sum(0)
    root = np.sqrt(q.shape[-1])
    of_q = np.einsum("whmn,whnd->whmd", of_scores, k) / root
    of_k = np.einsum("whmn,whmd->whnd", of_scores, q) / root
    of_v = np.einsum("whmn,whmd->whnd", p, upstream)
    return of_q, of_k, of_v, of_table


def convolve_1x1(x, weight, bias):
    """(B, C, H, W) by a (C', C, 1, 1) kernel."""
    return np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x) + bias[:, None, None]


def attention_of_map(qkv, table, window):
    """(B, 3*C, H, W) of whole windows -> (B, C, H, W)."""
    heads, (batch, channels, height, width) = len(table), qkv.shape
    d = channels // 3 // heads
    q, k, v = np.split(qkv, 3, axis=1)
    result = np.empty_like(q)
    for b in range(batch):
        for head in range(heads):
            channels = slice(head * d, head * d + d)
            for top in range(0, height, window):
                for left in range(0, width, window):
                    place = (b, channels, slice(top, top + window), slice(left, left + window))
                    tokens = (m[place].reshape(d, -1).T[None, None] for m in (q, k, v))
                    attended = attention(*tokens, table[head : head + 1], window)[0, 0]
                    result[place] = attended.T.reshape(d, window, window)
    return result


def pad_to_windows(x, window):
    """(B, C, H, W), reflected at the bottom and right."""
    bottom, right = (-side % window for side in x.shape[2:])
    return np.pad(x, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="reflect")


def window_attention_layer(x, state, window):
    """What the WindowAttention layer does to (B, C, H, W); ``state`` is its state dict."""
    qkv = convolve_1x1(pad_to_windows(x, window), state["to_qkv.weight"], state["to_qkv.bias"])
    result = attention_of_map(qkv, state["relative_position_bias"], window)
    out = convolve_1x1(result, state["to_out.weight"], state["to_out.bias"])
    return out[:, :, : x.shape[2], : x.shape[3]]
