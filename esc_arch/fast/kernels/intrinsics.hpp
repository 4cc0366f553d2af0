// The processor's own operations, for lanes.hpp; included outside of any namespace.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif
