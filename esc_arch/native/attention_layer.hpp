// One window of a self-attention with what is before and behind it; see attention_layer.cpp.
//
// Included by instruction_sets.inc, after pointwise.hpp.

#include "convolution.hpp"
#include "window_attention.hpp"

// y = x + 1x1 convolution of the attended pixels.
struct Residual {
    const Pointwise &layer;
    const float *in;
    long in_step;
    const float *x;
    long x_step;
    float *y;

    template <int P, int V>
    TARGET inline void run(int pixel, int column) const {
        vec acc[P][V];
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++)
                acc[i][j] = load(x + (pixel + i) * x_step + column + j * LANES) + load(layer.bias + column + j * LANES);
        accumulate(acc, in + pixel * in_step, in_step, layer.in, layer.weight + column, layer.padded);
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++) store(y + (long)(pixel + i) * layer.out + column + j * LANES, acc[i][j]);
    }
};

// `map` is that of the window alone: its token (y, x) stands at pixel (rows[y], columns[x]) of the image.
TARGET void attend_window(const Layer &layer, const Map &map, Keys &keys, const Window &at, const long *rows,
                          const long *columns, float *qkv, float *normal, float *scratch) {
    const int channels = layer.to_qkv.in, window = map.window, tokens = window * window;
    const float *image = layer.x + at.batch * layer.x_batch;
    for (int first = 0; first < tokens; first += RUN) {
        const int count = tokens - first < RUN ? tokens - first : RUN;
        for (int i = 0; i < count; i++) {
            const int y = (first + i) / window, x = (first + i) % window;
            normalise(layer.norm, image + rows[y] * layer.x_row + columns[x] * layer.x_column, 0, channels, 1,
                      normal + (long)i * channels);
        }
        pointwise(layer.to_qkv, normal, channels, count, qkv + (long)first * layer.to_qkv.padded, false);
    }
    const Window alone = {0, 0, 0, at.rows, at.columns};
    for (int head = 0; head < map.heads; head++) {
        keys.pack(map, alone, head);
        attend_rows(map, keys, alone, head, 0, at.rows, scratch);
    }
    for (int y = 0; y < at.rows; y++) {
        const long row = at.row + y;
        for_blocks(Residual{layer.to_out, map.out + y * map.out_row, map.out_column,
                            image + row * layer.x_row + at.column * layer.x_column, layer.x_column,
                            layer.y + at.batch * layer.y_batch + row * layer.y_row + (long)at.column * layer.to_out.out},
                   at.columns, layer.to_out.out);
    }
}
