// Columns of images and their adjoint: unfold (im2col) and fold (col2im); params of dagrun/codegen/convolution.py.
//
// Op: Dtype; zero(); add(Dtype, Dtype).
#pragma once
#include "dagrun.cuh"

namespace dagrun {

struct Convolution {
  i64 images, channels, rows, columns, kernel_rows, kernel_columns, out_rows, out_columns;
  i64 row_step, column_step, row_dilation, column_dilation, top, left;
  i64 x_image, x_channel, x_row, x_column, y_image, y_row;
  DAGRUN_METHOD explicit Convolution(const Call& call) {
    const i64* words = call.params;
    images = words[0], channels = words[2], rows = words[4], columns = words[5];
    kernel_rows = words[6], kernel_columns = words[7], out_rows = words[8], out_columns = words[9];
    row_step = words[10], column_step = words[11], row_dilation = words[12], column_dilation = words[13];
    top = words[14], left = words[15];
    x_image = words[18], x_channel = words[20], x_row = words[21], x_column = words[22], y_image = words[23];
    y_row = words[24];
  }
};

// columns, x: a thread for each element of the columns. Here the word y_channel, where it is not 0, is the byte stride of
// a row of columns: so rows may hold the places of all images.
template <class Op>
DAGRUN_INLINE void unfold(const Call& call) {
  using Dtype = typename Op::Dtype;
  const Convolution w(call);
  const i64 places = w.out_rows * w.out_columns, taps = w.channels * w.kernel_rows * w.kernel_columns;
  for (i64 n = first_thread(); n < w.images * taps * places; n += all_threads()) {
    i64 rest, place, image, tap, channel, i, j, row, column;
    divide(n, places, rest, place);
    divide(rest, taps, image, tap);
    divide(tap, w.kernel_columns, rest, j);
    divide(rest, w.kernel_rows, channel, i);
    divide(place, w.out_columns, row, column);
    const i64 r = row * w.row_step + i * w.row_dilation - w.top;
    const i64 c = column * w.column_step + j * w.column_dilation - w.left;
    Dtype value = Op::zero();
    if (r >= 0 && r < w.rows && c >= 0 && c < w.columns) {
      value = load<Dtype>(call.data[1] + image * w.x_image + channel * w.x_channel + r * w.x_row + c * w.x_column);
    }
    const i64 line = w.y_row == 0 ? places * i64(sizeof(Dtype)) : w.y_row;
    store(call.data[0] + image * w.y_image + tap * line + place * i64(sizeof(Dtype)), value);
  }
}

// x, columns: a thread for each element of x, which sums in the order of the kernel's places.
template <class Op>
DAGRUN_INLINE void fold(const Call& call) {
  using Dtype = typename Op::Dtype;
  const Convolution w(call);
  const i64 size = w.rows * w.columns, places = w.out_rows * w.out_columns;
  for (i64 n = first_thread(); n < w.images * w.channels * size; n += all_threads()) {
    i64 rest, element, image, channel, r, c;
    divide(n, size, rest, element);
    divide(rest, w.channels, image, channel);
    divide(element, w.columns, r, c);
    const char* own = call.data[1] + image * w.y_image;
    Dtype total = Op::zero();
    for (i64 i = 0; i < w.kernel_rows; i++) {
      const i64 down = r + w.top - i * w.row_dilation;
      if (down < 0 || down % w.row_step != 0 || down / w.row_step >= w.out_rows) continue;
      for (i64 j = 0; j < w.kernel_columns; j++) {
        const i64 right = c + w.left - j * w.column_dilation;
        if (right < 0 || right % w.column_step != 0 || right / w.column_step >= w.out_columns) continue;
        const i64 tap = (channel * w.kernel_rows + i) * w.kernel_columns + j;
        const i64 place = down / w.row_step * w.out_columns + right / w.column_step;
        total = Op::add(total, load<Dtype>(own + (tap * places + place) * i64(sizeof(Dtype))));
      }
    }
    store(call.data[0] + image * w.x_image + channel * w.x_channel + r * w.x_row + c * w.x_column, total);
  }
}

}  // namespace dagrun
