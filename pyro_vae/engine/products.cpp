// Matrix products in float32 on a CPU: c = a b.
//
// The arithmetic is oneDNN's, by kernels that PyTorch carries: they multiply matrices whose rows lie one after the
// other. Here they read what they can where it lies, and only what lies turned, column after column, is copied first.
// Of the three products of an affine layer, dx = dy w needs no copy, y = x w' one of w, and dw = dy' x one of dy.
// Each thread computes a rectangle of c, and copies what that takes of a and b into memory that it keeps.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <vector>

// Declared here, because their headers take seconds to compile.
namespace at::native::cpublas {
void brgemm(int64_t rows, int64_t columns, int64_t terms, int64_t a_stride, int64_t b_stride, int64_t c_stride,
            bool add, const float* a, const float* b, float* c, bool packed);
}
namespace fbgemm {
template <typename T>
void transpose_simd(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride);
extern template void transpose_simd<float>(int64_t, int64_t, const float*, int64_t, float*, int64_t);
}

namespace {

using torch::stable::Tensor;

// What one call of a kernel takes: rows of a, columns of b, terms of the sum; and what a thread copies of b at once.
constexpr int64_t ROWS = 256, COLUMNS = 64, MOST_TERMS = 512, FEWEST_TERMS = 128, COPIED = 1 << 17;
constexpr int64_t LANES = 16;    // numbers in a vector
constexpr int64_t TURNING = 20;  // what the copy of a number costs, in multiplications

struct Matrix {
  const float* data;
  int64_t stride;  // from one row to the next; from one column to the next where it lies turned
  bool turned;

  const float* at(int64_t row, int64_t column) const {
    return data + (turned ? column * stride + row : row * stride + column);
  }
};

int64_t parts(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One rectangle: m rows of a times n columns of b, in steps of the sum's terms.
void rectangle(const Matrix& a, const Matrix& b, float* c, int64_t stride, int64_t m, int64_t n, int64_t terms,
               int64_t step) {
  thread_local std::vector<float> a_turned, b_turned;
  if (a.turned) a_turned.resize(std::max<size_t>(a_turned.size(), ROWS * step));
  if (b.turned) b_turned.resize(std::max<size_t>(b_turned.size(), parts(n, COLUMNS) * COLUMNS * step));
  for (int64_t k = 0; k < terms; k += step) {
    const int64_t depth = std::min(step, terms - k);
    for (int64_t j = 0; b.turned && j < n; j += COLUMNS)
      fbgemm::transpose_simd<float>(std::min(COLUMNS, n - j), depth, b.at(k, j), b.stride, &b_turned[j * depth],
                                    COLUMNS);
    for (int64_t i = 0; i < m; i += ROWS) {
      const int64_t rows = std::min(ROWS, m - i);
      if (a.turned) fbgemm::transpose_simd<float>(depth, rows, a.at(i, k), a.stride, a_turned.data(), depth);
      for (int64_t j = 0; j < n; j += COLUMNS) {
        const int64_t columns = std::min(COLUMNS, n - j);
        float* to = c + i * stride + j;
        at::native::cpublas::brgemm(rows, columns, depth, a.turned ? depth : a.stride, b.turned ? COLUMNS : b.stride,
                                    stride, k > 0, a.turned ? a_turned.data() : a.at(i, k),
                                    b.turned ? &b_turned[j * depth] : b.at(k, j), to, false);
      }
    }
  }
}

bool has_rows(const Tensor& t) { return t.stride(1) == 1 && t.stride(0) >= t.size(1); }
bool has_columns(const Tensor& t) { return t.stride(0) == 1 && t.stride(1) >= t.size(0); }

const float* numbers(const Tensor& t) { return static_cast<const float*>(t.const_data_ptr()); }
Tensor turned(const Tensor& t) { return torch::stable::transpose(t, 0, 1); }

Tensor product(const Tensor& left, const Tensor& right) {
  for (const Tensor* t : {&left, &right})
    STD_TORCH_CHECK(t->is_cpu() && t->scalar_type() == torch::headeronly::ScalarType::Float, "not float32 on a CPU");
  STD_TORCH_CHECK(left.dim() == 2 && right.dim() == 2 && left.numel() && right.numel(), "not matrices, or empty");
  const int64_t m = left.size(0), n = right.size(1), terms = left.size(1);
  STD_TORCH_CHECK(right.size(0) == terms, "sizes do not fit");
  const Tensor a = has_rows(left) || has_columns(left) ? left : torch::stable::contiguous(left);
  const Tensor b = has_rows(right) || has_columns(right) ? right : torch::stable::contiguous(right);
  const Matrix x{numbers(a), a.stride(has_rows(a) ? 0 : 1), !has_rows(a)};
  const Matrix y{numbers(b), b.stride(has_rows(b) ? 0 : 1), !has_rows(b)};
  if (x.turned && !y.turned && terms * (m - n) > 2 * m * n)  // c' = b' a' copies less
    return torch::stable::contiguous(turned(product(turned(b), turned(a))));
  Tensor c = torch::stable::new_empty(a, {m, n});
  float* out = static_cast<float*>(c.mutable_data_ptr());

  // Rectangles so that no thread has much more to do than the others; those side by side copy the same rows of a.
  const int64_t threads = torch::stable::get_num_threads();
  int64_t height = m, width = n, least = std::numeric_limits<int64_t>::max();
  for (int64_t across = 1; across <= threads; ++across) {
    const int64_t tall = parts(m, threads / across), wide = parts(parts(n, across), LANES) * LANES;
    const int64_t work = tall * wide + TURNING * ((x.turned ? tall : 0) + (y.turned ? wide : 0));
    if (work < least) least = work, height = tall, width = wide;
  }
  const int64_t across = parts(n, width);
  // The same terms at once, and so the same sums, for any number of threads.
  const int64_t step = std::min(terms, std::clamp(parts(COPIED, n), FEWEST_TERMS, MOST_TERMS));
  torch::stable::parallel_for(0, parts(m, height) * across, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t i = t / across * height, j = t % across * width;
      rectangle({x.at(i, 0), x.stride, x.turned}, {y.at(0, j), y.stride, y.turned}, out + i * n + j, n,
                std::min(height, m - i), std::min(width, n - j), terms, step);
    }
  });
  return c;
}

}  // namespace

STABLE_TORCH_LIBRARY(pyro_vae, library) { library.def("product(Tensor a, Tensor b) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(pyro_vae, CPU, library) { library.impl("product", TORCH_BOX(&product)); }
