// Columns of images and their adjoint: unfold (im2col) and fold (col2im); params of dagrun/codegen/convolution.py.
//
// Op: Dtype; zero(); add(Dtype, Dtype).
#pragma once
#include "dagrun.cuh"

namespace dagrun {

struct Convolution {
  i64 images, channels;
  int rows, columns, kernel_rows, kernel_columns, out_rows, out_columns;
  int row_step, column_step, row_dilation, column_dilation, top, left;
  i64 x_image, x_channel, x_row, x_column, y_image, y_row;
  DAGRUN_METHOD explicit Convolution(const Call& call) {
    const i64* words = call.params;
    images = words[0], channels = words[2], rows = int(words[4]), columns = int(words[5]);
    kernel_rows = int(words[6]), kernel_columns = int(words[7]), out_rows = int(words[8]), out_columns = int(words[9]);
    row_step = int(words[10]), column_step = int(words[11]);
    row_dilation = int(words[12]), column_dilation = int(words[13]), top = int(words[14]), left = int(words[15]);
    x_image = words[18], x_channel = words[20], x_row = words[21], x_column = words[22], y_image = words[23];
    y_row = words[24];
  }
};

// Places of a plane that one thread does.
constexpr int SIDE_BY_SIDE = 4;

// columns, x: a thread for four neighbouring places of a channel; it goes over the kernel. So where it is is worked out
// once, and threads side by side read and write side by side. Here the word y_channel, where it is not 0, is the byte
// stride of a row of columns: so rows may hold the places of all images.
template <class Op>
DAGRUN_INLINE void unfold(const Call& call) {
  using Dtype = typename Op::Dtype;
  struct alignas(SIDE_BY_SIDE * sizeof(Dtype)) Values {
    Dtype value[SIDE_BY_SIDE];
  };
  const Convolution w(call);
  const i64 places = i64(w.out_rows) * w.out_columns, pieces = (places + SIDE_BY_SIDE - 1) / SIDE_BY_SIDE;
  const i64 line = w.y_row == 0 ? places * i64(sizeof(Dtype)) : w.y_row;
  for (i64 n = first_thread(); n < w.images * w.channels * pieces; n += all_threads()) {
    i64 rest, piece, image, channel, row, column;
    divide(n, pieces, rest, piece);
    divide(rest, w.channels, image, channel);
    const i64 place = piece * SIDE_BY_SIDE;
    divide(place, w.out_columns, row, column);
    int r[SIDE_BY_SIDE], c[SIDE_BY_SIDE];  // of the elements under the kernel's first place
    for (int k = 0; k < SIDE_BY_SIDE; k++) {
      r[k] = int(row) * w.row_step - w.top, c[k] = int(column) * w.column_step - w.left;
      if (++column == w.out_columns) column = 0, row++;
    }
    const char* plane = call.data[1] + image * w.x_image + channel * w.x_channel;
    const i64 taps = i64(w.kernel_rows) * w.kernel_columns;
    char* out = call.data[0] + image * w.y_image + channel * taps * line + place * i64(sizeof(Dtype));
    const bool whole = place + SIDE_BY_SIDE <= places && ((u64(out) | u64(line)) & (sizeof(Values) - 1)) == 0;
    for (int i = 0; i < w.kernel_rows; i++) {
      for (int j = 0; j < w.kernel_columns; j++, out += line) {
        Values values;
        for (int k = 0; k < SIDE_BY_SIDE; k++) {
          const int down = r[k] + i * w.row_dilation, right = c[k] + j * w.column_dilation;
          values.value[k] = Op::zero();
          if (u32(down) < u32(w.rows) && u32(right) < u32(w.columns)) {
            values.value[k] = load<Dtype>(plane + down * w.x_row + right * w.x_column);
          }
        }
        if (whole) {
          *reinterpret_cast<Values*>(out) = values;
        } else {
          for (int k = 0; k < SIDE_BY_SIDE && place + k < places; k++) {
            store(out + k * i64(sizeof(Dtype)), values.value[k]);
          }
        }
      }
    }
  }
}

// Whether `distance` is a whole number of steps, and if so fewer than `count`: the output place that reads an element.
DAGRUN_INLINE bool stepped(int distance, int step, int count, int& place) {
  place = distance;
  if (distance < 0) return false;
  if (step > 1) {
    place = int(u32(distance) / u32(step));
    if (place * step != distance) return false;
  }
  return place < count;
}

// x, columns: a thread for each element of x, which sums in the order of the kernel's places.
template <class Op>
DAGRUN_INLINE void fold(const Call& call) {
  using Dtype = typename Op::Dtype;
  const Convolution w(call);
  const i64 size = i64(w.rows) * w.columns, line = i64(w.out_rows) * w.out_columns * i64(sizeof(Dtype));
  for (i64 n = first_thread(); n < w.images * w.channels * size; n += all_threads()) {
    i64 rest, element, image, channel, r, c;
    divide(n, size, rest, element);
    divide(rest, w.channels, image, channel);
    divide(element, w.columns, r, c);
    const char* own = call.data[1] + image * w.y_image + channel * w.kernel_rows * w.kernel_columns * line;
    Dtype total = Op::zero();
    for (int i = 0; i < w.kernel_rows; i++) {
      int row, column;
      if (!stepped(int(r) + w.top - i * w.row_dilation, w.row_step, w.out_rows, row)) continue;
      for (int j = 0; j < w.kernel_columns; j++) {
        if (!stepped(int(c) + w.left - j * w.column_dilation, w.column_step, w.out_columns, column)) continue;
        const i64 tap = i64(i) * w.kernel_columns + j, place = i64(row) * w.out_columns + column;
        total = Op::add(total, load<Dtype>(own + tap * line + place * i64(sizeof(Dtype))));
      }
    }
    store(call.data[0] + image * w.x_image + channel * w.x_channel + r * w.x_row + c * w.x_column, total);
  }
}

}  // namespace dagrun
