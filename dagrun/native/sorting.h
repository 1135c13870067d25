// Native bodies about order: what sort, argsort and searchsorted of the array library run.
#pragma once
#include "task.h"

namespace dagrun {

// The body for elements of a kind ('b' bool, 'i', 'u', 'f') and size that gives sorted values, or their positions
// (int64); nullptr where there is none. Data: output, input, scratch memory as large as the output, if any. Params: length of
// a line, its stride in the output and in the input, 1 for descending, plus 2 where there is scratch memory (for values of a
// line that is contiguous in the output), number of other dimensions, then for each its size and its two strides, in bytes.
// Lines are shorter than 2^32 elements. Returns 1 where memory (two records for each element of a line) is missing.
Function sorter(char kind, int itemsize, bool positions);

// The body that merges two sorted runs, one behind the other, for sorted values; of equal elements those of the first run
// come first. Data: a part of the result, the runs. Params: lengths of the runs, the part [first, last) of the result, its
// stride and that of the runs in bytes, 1 for descending.
Function merger(char kind, int itemsize);

// The body that finds, for each element, before how many elements of a sorted line it does not come (int64); nullptr where
// there is none. Data: output, line, elements; output and elements contiguous. Params: number of elements, length of the
// line, its stride in bytes, 1 to come after equal elements.
Function searcher(char kind, int itemsize);

}  // namespace dagrun
