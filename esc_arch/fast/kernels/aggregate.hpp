// The last step of ConvAttn for a run of pixels; see aggregate.cpp.
//
// Included by instruction_sets.inc, after pointwise.hpp.

struct AggregationBlock {
    const Pointwise &layer;
    int split;  // channels of `first`
    const float *first;
    int64_t first_stride;
    const float *rest;
    int64_t rest_stride;
    float *residual;

    template <int P, int V>
    TARGET inline void run(int pixel, int column) const {
        const float *weight = layer.weight + column;
        float *at = residual + (int64_t)pixel * layer.out + column;
        vec acc[P][V];
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++)
                acc[i][j] = load(at + i * layer.out + j * LANES) + load(layer.bias + column + j * LANES);
        accumulate(acc, first + pixel * first_stride, first_stride, split, weight, layer.padded);
        accumulate(acc, rest + pixel * rest_stride + split, rest_stride, layer.in - split,
                   weight + (int64_t)split * layer.padded, layer.padded);
#pragma GCC unroll 6
        for (int i = 0; i < P; i++)
#pragma GCC unroll 5
            for (int j = 0; j < V; j++) store(at + i * layer.out + j * LANES, acc[i][j]);
    }
};

// `row` counts the rows of all images.
TARGET void aggregate(const Aggregation &aggregation, int64_t row, int start, int pixels) {
    const AggregateCall &call = aggregation.call;
    const int64_t image = row / call.map.height;
    const int64_t y = row % call.map.height;
    const AggregationBlock block = {
        aggregation.layer,
        call.first_channels,
        pixel(call.first, image, y, start),
        call.first.column_stride,
        pixel(call.rest, image, y, start),
        call.rest.column_stride,
        pixel(call.residual, image, y, start),
    };
    for_blocks(block, pixels, aggregation.layer.out);
}
