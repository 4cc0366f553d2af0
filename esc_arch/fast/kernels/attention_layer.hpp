// One window of a self-attention with what is before and behind it; see attention_layer.cpp.
//
// Included by instruction_sets.inc, after pointwise.hpp.

#include "convolution.hpp"
#include "window_attention.hpp"

// out = x + 1x1 convolution of the attended pixels.
struct Residual {
    const Pointwise &layer;
    const float *in;
    int64_t in_stride;
    const float *x;
    int64_t x_stride;
    float *out;

    template <int P, int V>
    TARGET inline void run(int pixel, int column) const {
        vec acc[P][V];
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++)
                acc[i][j] =
                    load(x + (pixel + i) * x_stride + column + j * LANES) + load(layer.bias + column + j * LANES);
        accumulate(acc, in + pixel * in_stride, in_stride, layer.in, layer.weight + column, layer.padded);
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++)
                store(out + (int64_t)(pixel + i) * layer.out + column + j * LANES, acc[i][j]);
    }
};

// Queries, keys and values of all tokens of a window.
TARGET inline void project(const AttentionLayer &layer, const Window &window, const WindowMemory &memory) {
    const AttentionLayerCall &call = layer.call;
    const int channels = call.channels;
    const int side = call.attention.window;
    const int tokens = side * side;
    const int64_t *rows = call.attention.rows + window.row;
    const int64_t *columns = call.attention.columns + window.column;
    for (int first = 0; first < tokens; first += RUN) {
        const int count = tokens - first < RUN ? tokens - first : RUN;
        for (int i = 0; i < count; i++) {
            const int y = (first + i) / side;
            const int x = (first + i) % side;
            normalise_pixel(call.norm, pixel(call.x, window.image, rows[y], columns[x]), channels,
                            memory.normal + (int64_t)i * channels);
        }
        pointwise(layer.to_qkv, memory.normal, channels, count, memory.qkv + (int64_t)first * layer.to_qkv.padded,
                  false);
    }
}

TARGET void attend_window(const AttentionLayer &layer, const Window &window, WindowMemory &memory) {
    const AttentionLayerCall &call = layer.call;
    const AttentionMap &map = memory.map;
    project(layer, window, memory);
    const Window alone = {0, 0, 0, window.rows, window.columns};
    for (int head = 0; head < call.attention.heads; head++) {
        memory.keys.pack(map, alone, head);
        attend_rows(map, memory.keys, alone, head, 0, window.rows, memory.scratch);
    }
    for (int y = 0; y < window.rows; y++) {
        const Residual row = {
            layer.to_out,
            AttentionMap::at(map.out, alone, y, 0),
            map.out.column_stride,
            AttentionMap::at(call.x, window, y, 0),
            call.x.column_stride,
            AttentionMap::at(call.out, window, y, 0),
        };
        for_blocks(row, window.columns, layer.to_out.out);
    }
}
