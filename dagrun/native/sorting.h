// Native bodies about order: what sort, argsort and searchsorted of the array library run.
#pragma once
#include "task.h"

namespace dagrun {

// The body for elements of a kind ('b' bool, 'i', 'u', 'f') and size that gives sorted values, or their positions
// (int64); nullptr where there is none. Data: output, input. Params: length of a line, its stride in the output and in the
// input, 1 for descending, number of other dimensions, then for each its size and its two strides, all in bytes.
// Lines are shorter than 2^32 elements. Returns 1 where scratch memory (two records for each element of a line) is missing.
Function sorter(char kind, int itemsize, bool positions);

// The body that finds, for each element, before how many elements of a sorted line it does not come (int64); nullptr where
// there is none. Data: output, line, elements; output and elements contiguous. Params: number of elements, length of the
// line, its stride in bytes, 1 to come after equal elements.
Function searcher(char kind, int itemsize);

}  // namespace dagrun
