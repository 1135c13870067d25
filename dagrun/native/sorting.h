// Native bodies that put lines of elements in order: what the sort and argsort of the array library run.
#pragma once
#include "task.h"

namespace dagrun {

// The body for elements of a kind ('b' bool, 'i', 'u', 'f') and size that gives sorted values, or their positions
// (int64); nullptr where there is none. Data: output, input. Params: length of a line, its stride in the output and in the
// input, 1 for descending, number of other dimensions, then for each its size and its two strides, all in bytes.
// Lines are shorter than 2^32 elements. Returns 1 where scratch memory (two records for each element of a line) is missing.
Function sorter(char kind, int itemsize, bool positions);

}  // namespace dagrun
