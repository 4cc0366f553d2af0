// The last step of ConvAttn for a run of pixels; see aggregate.cpp.
//
// Included by instruction_sets.inc, after pointwise.hpp.

struct Aggregation {
    const Maps &maps;
    const float *first, *rest;
    float *residual;

    template <int P, int V>
    TARGET inline void run(int pixel, int column) const {
        const Pointwise &layer = maps.layer;
        const float *weight = layer.weight + column;
        float *at = residual + (long)pixel * layer.out + column;
        vec acc[P][V];
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++)
                acc[i][j] = load(at + i * layer.out + j * LANES) + load(layer.bias + column + j * LANES);
        accumulate(acc, first + (long)pixel * maps.split, maps.split, maps.split, weight, layer.padded);
        accumulate(acc, rest + (long)pixel * layer.in + maps.split, layer.in, layer.in - maps.split,
                   weight + (long)maps.split * layer.padded, layer.padded);
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++) store(at + i * layer.out + j * LANES, acc[i][j]);
    }
};

// `row` counts the rows of all images.
TARGET void aggregate(const Maps &maps, long row, int start, int pixels) {
    const long image = row / maps.height, y = row % maps.height;
    auto place = [&](const long *strides, int channels) {
        return image * strides[0] + y * strides[1] + (long)start * channels;
    };
    const float *first = maps.first + place(maps.first_strides, maps.split);
    const float *rest = maps.rest + place(maps.rest_strides, maps.layer.in);
    float *residual = maps.residual + place(maps.residual_strides, maps.layer.out);
    for_blocks(Aggregation{maps, first, rest, residual}, pixels, maps.layer.out);
}
