// Where a pixel of a map lies.
#pragma once

#include "abi.hpp"

// In rows and columns of the margins, too, which are less than 0 or not less than the size.
inline float *pixel(const FeatureMap &map, int64_t image, int64_t row, int64_t column) {
    return map.data + image * map.batch_stride + row * map.row_stride + column * map.column_stride;
}
