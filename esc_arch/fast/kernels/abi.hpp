// What Python hands to the kernels; abi.py has the same structures, field by field.
//
// Each call begins with its size, by which a kernel knows a caller of another version.  All numbers of
// maps and parameters are float32, all strides are in floats.
#pragma once

#include <stdint.h>

// What a kernel returns.
enum Status { DONE = 0, NO_MEMORY = 1, OTHER_VERSION = 2 };

// A map of pixels whose channels lie side by side.
struct FeatureMap {
    float *data;
    int64_t batch_stride;
    int64_t row_stride;
    int64_t column_stride;
};

struct MapSize {
    int32_t batch;
    int32_t height;
    int32_t width;
};

// Rows and columns of the input around the map, which are looked at: parts of an image that goes by tiles.
struct Margins {
    int32_t top;
    int32_t bottom;
    int32_t left;
    int32_t right;
};

// A convolution, its weight (out, in, height, width) without gaps.
struct Layer {
    const float *weight;
    const float *bias;
};

// Layer normalisation over the channels of a pixel; none where the weight is null.
struct Norm {
    const float *weight;
    const float *bias;
    float eps;
};

// A convolution's weight, (out, in, size, size), wherever it lies.
struct Kernel {
    const float *data;
    int64_t out_stride;
    int64_t in_stride;
    int64_t row_stride;
    int64_t column_stride;
    int32_t size;
};

// Softmax attention inside windows of a map that reflection extends to whole windows.
struct Attention {
    const float *bias;         // (heads, 2 * window - 1, bias_stride), columns in reverse, to the base 2
    const int64_t *rows;       // the row of the map that stands in each row of the extended map
    const int64_t *columns;
    int64_t bias_stride;
    int32_t heads;
    int32_t head_channels;
    int32_t window;
    float scale;               // of the scores, to the base 2
};

// LayerNorm, 1x1 convolution, GELU, 3x3 depth-wise convolution with GELU and sum, 1x1 convolution.
struct ConvFfnCall {
    int64_t size;
    FeatureMap x;              // without its margins
    FeatureMap out;            // the pixels of a row side by side
    MapSize map;
    Margins margins;
    Norm norm;
    Layer widen;
    Layer depthwise;
    Layer narrow;
    int32_t channels;
    int32_t hidden_channels;
    int32_t out_channels;
    int32_t threads;
    int32_t lanes;
};

// out = x + 1x1 convolution of the attention of the 1x1 convolution of the LayerNorm of x.
struct AttentionLayerCall {
    int64_t size;
    FeatureMap x;
    FeatureMap out;            // not x; the pixels of a row side by side
    MapSize map;
    Norm norm;
    Layer to_qkv;
    Attention attention;
    Layer to_out;
    int32_t channels;          // whole vectors of 16
    int32_t threads;
    int32_t lanes;
};

// out = conv(x, kernel) + depthwise_conv(x, dynamic_kernel).
struct SymmetricConvCall {
    int64_t size;
    FeatureMap x;              // without its margins
    FeatureMap out;            // the pixels of a row side by side
    MapSize map;
    Margins margins;
    Kernel kernel;             // with the symmetries of the square
    const float *dynamic_kernel;  // (batch, 9, channels)
    int32_t channels;          // whole vectors of 16
    int32_t threads;
    int32_t lanes;
};

// residual += 1x1 convolution of the channels of `first` and, behind them, those of `rest`.
struct AggregateCall {
    int64_t size;
    FeatureMap first;
    FeatureMap rest;           // its first channels are skipped
    FeatureMap residual;
    MapSize map;
    Layer layer;
    int32_t first_channels;
    int32_t channels;          // whole vectors of 16
    int32_t threads;
    int32_t lanes;
};

struct WindowAttentionCall {
    int64_t size;
    FeatureMap qkv;
    FeatureMap out;
    float *lse;                // (batch, height, width, heads): log-sum-exp of the scores, to the base 2
    MapSize map;
    Attention attention;
    int32_t threads;
    int32_t lanes;
};

// Of maps of whole windows.
struct WindowAttentionBackwardCall {
    int64_t size;
    FeatureMap upstream;       // the gradient of the result
    FeatureMap qkv;
    FeatureMap out;
    const float *lse;
    FeatureMap qkv_gradient;
    float *bias_gradients;     // (groups, heads, 2 * window - 1, bias_stride)
    MapSize map;
    Attention attention;
    float gradient_scale;      // of the scores, to the base e
    int32_t groups;            // of windows, each with a sum of its own of the gradients of the biases
    int32_t threads;
    int32_t lanes;
};
