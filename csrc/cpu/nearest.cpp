// SPDX-License-Identifier: MIT
// pointloss::nearest and k_nearest on the CPU: check, allocate, choose brute force or tree, share
// the work among the threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>

#include "../common/calls/nearest_call.h"
#include "nearest.h"
#include "nearest/brute_force.h"
#include "nearest/line.h"
#include "nearest/tree.h"

namespace pointloss {
namespace {

static_assert(kMostPlaces == kMostNeighbours);

// Pairs that one task should at least have, so that starting it costs little beside it.
constexpr int64_t kPairsPerTask = 1 << 16;
// Packets of 8 or 4 queries a task, when the threads share one pair of clouds.
constexpr int64_t kPacketsPerTask = 64;
// Points of one axis a task, likewise.
constexpr int64_t kPointsPerTask = 1 << 14;
// The tree wins where N * M pairs take longer than this many for each point that it must sort in
// and search (measured on one core, both directions: level at N = M = 256 for D = 3, 1200 to 2000
// for D = 6, 8192 and more for D = 8, where clouds without structure never gain).
constexpr int64_t pairs_per_sorted_point(int64_t D) { return D <= 4 ? 180 : D <= 6 ? 800 : 4000; }

// body(std::integral_constant<int, kDim>) for a tree of D axes. Some have one axis more than the
// clouds, with zeros, which adds nothing to a distance: fewer trees to compile.
template <class Body>
auto with_tree_dim(int64_t D, const Body& body) {
  if (D <= 2) return body(std::integral_constant<int, 2>());
  if (D == 3) return body(std::integral_constant<int, 3>());
  if (D == 4) return body(std::integral_constant<int, 4>());
  if (D <= 6) return body(std::integral_constant<int, 6>());
  return body(std::integral_constant<int, kMaxTreeDim>());
}

struct Problem {
  Clouds size;
  const int64_t* x_lengths;  // [B] or null
  const int64_t* y_lengths;  // [B] or null
  bool both;
};

template <class T>
struct Answer {
  T* dist;       // [B, rows, k]
  int64_t* idx;  // [B, rows, k]
  int64_t rows;
  int64_t k;  // neighbours of a row

  T* dist_of(int64_t b) const { return dist + b * rows * k; }
  int64_t* idx_of(int64_t b) const { return idx + b * rows * k; }

  // Rows of one cloud that no search answers: padding, or all of them where a length is bad.
  void fill(int64_t b, int64_t first, int64_t last, bool bad) const {
    const T value = bad ? std::numeric_limits<T>::quiet_NaN() : T(0);
    std::fill(dist_of(b) + first * k, dist_of(b) + last * k, value);
    std::fill(idx_of(b) + first * k, idx_of(b) + last * k, int64_t{-1});
  }
};

// Panels of all clouds y [B, M, D], each with its valid points only.
template <class T>
Tensor pack_clouds(const Tensor& y, const int64_t* lengths) {
  const int64_t M = y.size(1), D = y.size(2), count = panel_count<T>(M);
  Tensor panels = new_tensor(y, {y.size(0), count * kPanelColumns<T> * D}, y.scalar_type());
  const T* from = y.const_data_ptr<T>();
  T* to = panels.mutable_data_ptr<T>();
  const int64_t grain = std::max<int64_t>(1, kPairsPerTask / (kPanelColumns<T> * D));
  torch::stable::parallel_for(0, y.size(0) * count, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t b = begin / count, first = begin % count;
      const int64_t last = std::min(count, first + end - begin);
      pack_panels(from + b * M * D, valid_length(lengths, b, M), D, first, last,
                  to + b * count * kPanelColumns<T> * D);
      begin += last - first;
    }
  });
  return panels;
}

// x [B, N, D] against the panels of y; the rows of all clouds are shared out evenly.
template <int kNorm, class T>
void search_brute(const T* x, const T* panels, const Clouds& size, const int64_t* x_lengths,
                  const int64_t* y_lengths, const Answer<T>& answer) {
  const int64_t N = size.N, M = size.M, D = size.D;
  const int64_t of_cloud = panel_count<T>(M) * kPanelColumns<T> * D;
  const int64_t grain = std::max(kTileRows, kPairsPerTask / std::max<int64_t>(1, M));
  torch::stable::parallel_for(0, size.B * N, grain, [&](int64_t begin, int64_t end) {
    while (begin < end) {  // a range of rows may span several clouds
      const int64_t b = begin / N, first = begin % N;
      const int64_t last = std::min(N, first + end - begin);
      const int64_t n = valid_length(x_lengths, b, N), m = valid_length(y_lengths, b, M);
      const bool bad = n < 0 || m < 0;
      const int64_t valid = bad ? first : std::max(first, std::min(n, last));
      const T *rows = x + b * N * D, *columns = panels + b * of_cloud;
      T* dist = answer.dist_of(b);
      int64_t* idx = answer.idx_of(b);
      if (answer.k == 1) {
        nearest_rows_dispatch<kNorm>(rows, first, valid, columns, panel_count<T>(m), D, dist, idx);
      } else {
        k_nearest_rows_dispatch<kNorm>(rows, first, valid, columns, panel_count<T>(m), D, dist, idx,
                                       answer.k);
      }
      answer.fill(b, valid, last, bad);
      begin += last - first;
    }
  });
}

// The loops of one pair of clouds: shared by the threads, or within one thread's share. One type
// for both, because every tree is compiled for each type.
struct ParallelFor {
  bool shared;

  template <class Body>
  void operator()(int64_t begin, int64_t end, int64_t grain, const Body& body) const {
    if (shared) {
      torch::stable::parallel_for(begin, end, grain, body);
    } else if (begin < end) {
      body(begin, end);
    }
  }
};

// The points of a tree in another, for cloud b.
template <int kNorm, int kDim, class T>
void search_from(const NearestTree<kDim, T>& from, const TreeView<T>& in, int64_t b,
                 const Answer<T>& answer, const ParallelFor& parallel_for) {
  T* dist = answer.dist_of(b);
  int64_t* idx = answer.idx_of(b);
  parallel_for(0, from.packets(), kPacketsPerTask, [&](int64_t begin, int64_t end) {
    nearest_packets<kNorm>(from, begin, end, in, dist, idx, answer.k);
  });
  from.answer_rest(dist, idx, answer.k);
}

// Tells the valid points of pair b, n and m, and fills what has no answer; false if a length is
// bad.
template <class T>
bool begin_pair(const Problem& p, int64_t b, const Answer<T>& to_y, const Answer<T>& to_x,
                int64_t* n, int64_t* m) {
  *n = valid_length(p.x_lengths, b, p.size.N), *m = valid_length(p.y_lengths, b, p.size.M);
  const bool bad = *n < 0 || *m < 0;
  to_y.fill(b, bad ? 0 : *n, p.size.N, bad);
  if (p.both) to_x.fill(b, bad ? 0 : *m, p.size.M, bad);
  return !bad;
}

// One pair of clouds by trees, both directions from one pair of them.
template <int kNorm, int kDim, class T>
void search_pair(NearestTree<kDim, T>& x, NearestTree<kDim, T>& y, const T* x_points,
                 const T* y_points, const Problem& p, int64_t b, const Answer<T>& to_y,
                 const Answer<T>& to_x, const ParallelFor& parallel_for) {
  int64_t n, m;
  if (!begin_pair(p, b, to_y, to_x, &n, &m)) return;
  x.set_points(x_points + b * p.size.N * p.size.D, n, p.size.D);
  y.set_points(y_points + b * p.size.M * p.size.D, m, p.size.D, to_y.k);
  build_trees<kDim, T>({&x, &y}, parallel_for);
  search_from<kNorm>(x, y.view(), b, to_y, parallel_for);
  if (p.both) search_from<kNorm>(y, x.view(), b, to_x, parallel_for);
}

// body(b, parallel_for) for all clouds b: each a thread's task where there are enough, else shared.
template <class Body>
void each_cloud(int64_t B, const Body& body) {
  const ParallelFor within{B < torch::stable::get_num_threads()};
  ParallelFor{!within.shared}(0, B, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) body(b, within);
  });
}

template <int kNorm, int kDim, class T>
void search_tree(const T* x, const T* y, const Problem& p, const Answer<T>& to_y,
                 const Answer<T>& to_x) {
  each_cloud(p.size.B, [&](int64_t b, const ParallelFor& parallel_for) {
    NearestTree<kDim, T> x_tree, y_tree;
    search_pair<kNorm>(x_tree, y_tree, x, y, p, b, to_y, to_x, parallel_for);
  });
}

// The nearest of one axis, by sorting.
template <int kNorm, class T>
void search_line(const T* x, const T* y, const Problem& p, const Answer<T>& to_y,
                 const Answer<T>& to_x) {
  const auto search_from = [](const SortedLine<T>& from, const SortedLine<T>& in, int64_t b,
                              const Answer<T>& answer, const ParallelFor& parallel_for) {
    parallel_for(0, from.size(), kPointsPerTask, [&](int64_t begin, int64_t end) {
      from.template search<kNorm>(begin, end, in, answer.dist_of(b), answer.idx_of(b));
    });
    from.answer_rest(answer.dist_of(b), answer.idx_of(b));
  };
  each_cloud(p.size.B, [&](int64_t b, const ParallelFor& parallel_for) {
    int64_t n, m;
    if (!begin_pair(p, b, to_y, to_x, &n, &m)) return;
    SortedLine<T> x_line, y_line;
    x_line.set_points(x + b * p.size.N, n);
    y_line.set_points(y + b * p.size.M, m);
    search_from(x_line, y_line, b, to_y, parallel_for);
    if (p.both) search_from(y_line, x_line, b, to_x, parallel_for);
  });
}

// By trees from x alone, with the images of the trees of y, `bytes` bytes each.
template <int kNorm, int kDim, class T>
void search_index(const T* x, const char* images, int64_t bytes, const Problem& p,
                  const Answer<T>& to_y) {
  each_cloud(p.size.B, [&](int64_t b, const ParallelFor& parallel_for) {
    const int64_t n = valid_length(p.x_lengths, b, p.size.N);
    const bool bad = n < 0 || valid_length(p.y_lengths, b, p.size.M) < 0;
    to_y.fill(b, bad ? 0 : n, p.size.N, bad);
    if (bad) return;
    NearestTree<kDim, T> tree;
    tree.set_points(x + b * p.size.N * p.size.D, n, p.size.D);
    build_trees<kDim, T>({&tree}, parallel_for);
    search_from<kNorm>(tree, NearestTree<kDim, T>::view_image(images + b * bytes, p.size.M), b,
                       to_y, parallel_for);
  });
}

template <class T>
bool takes_tree(Method method, const Clouds& size) {
  const bool possible =
      size.D <= kMaxTreeDim && std::max(size.N, size.M) <= NearestTree<3, T>::kMaxPoints;
  STD_TORCH_CHECK(method != Method::kTree || possible, "method tree needs D <= ", kMaxTreeDim,
                  " on the CPU");
  const bool worth_it = size.N * size.M > pairs_per_sorted_point(size.D) * (size.N + size.M);
  return method == Method::kTree || (method == Method::kAuto && possible && worth_it);
}

template <int kNorm, class T>
void run_brute(const Tensor& x, const Tensor& y, const Problem& p, const Answer<T>& to_y,
               const Answer<T>& to_x) {
  const Tensor y_panels = pack_clouds<T>(y, p.y_lengths);
  search_brute<kNorm>(x.const_data_ptr<T>(), y_panels.const_data_ptr<T>(), p.size, p.x_lengths,
                      p.y_lengths, to_y);
  if (!p.both) return;
  const Tensor x_panels = pack_clouds<T>(x, p.x_lengths);
  const Clouds swapped{p.size.B, p.size.M, p.size.N, p.size.D};
  search_brute<kNorm>(y.const_data_ptr<T>(), x_panels.const_data_ptr<T>(), swapped, p.y_lengths,
                      p.x_lengths, to_x);
}

template <int kNorm, class T>
void run(const Tensor& x, const Tensor& y, const Problem& p, Method method, const Answer<T>& to_y,
         const Answer<T>& to_x) {
  if (takes_tree<T>(method, p.size) && p.size.D == 1 && to_y.k == 1) {
    search_line<kNorm>(x.const_data_ptr<T>(), y.const_data_ptr<T>(), p, to_y, to_x);
  } else if (takes_tree<T>(method, p.size)) {
    with_tree_dim(p.size.D, [&](auto dim) {
      search_tree<kNorm, dim()>(x.const_data_ptr<T>(), y.const_data_ptr<T>(), p, to_y, to_x);
    });
  } else {
    run_brute<kNorm>(x, y, p, to_y, to_x);
  }
}

template <class T>
void search_typed(const NearestCall& call, const NearestOutput& out, int64_t k) {
  const Problem problem{call.size, call.x_lengths_data(), call.y_lengths_data(), call.both};
  const Answer<T> to_y{static_cast<T*>(out.dist_x), out.idx_x, call.size.N, k};
  const Answer<T> to_x{static_cast<T*>(out.dist_y), out.idx_y, call.columns(), 1};
  if (call.norm == 1) {
    run<1>(call.x, call.y, problem, call.method, to_y, to_x);
  } else {
    run<2>(call.x, call.y, problem, call.method, to_y, to_x);
  }
}

NearestTensors nearest_cpu(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                           std::optional<Tensor> y_lengths, int64_t norm, bool both,
                           std::string method) {
  return run_nearest(check_nearest(x, y, x_lengths, y_lengths, norm, both, method),
                     &search_nearest_cpu);
}

// Below this many points brute force is as fast as an index.
constexpr int64_t kIndexFrom = 128;

// Bytes of the image of each tree of y; 0 where there are none.
int64_t image_bytes(const Tensor& y) {
  const int64_t M = y.size(1), D = y.size(2);
  const auto bytes = [&](auto zero) -> int64_t {
    using T = decltype(zero);
    if (M < kIndexFrom || M > NearestTree<3, T>::kMaxPoints || D > kMaxTreeDim) return 0;
    return with_tree_dim(D, [&](auto dim) { return NearestTree<dim(), T>::image_bytes(M); });
  };
  return y.scalar_type() == ScalarType::Float ? bytes(0.f) : bytes(0.);
}

template <int kDim, class T>
void build_index(const Tensor& y, const int64_t* lengths, char* images, int64_t bytes) {
  const T* points = y.const_data_ptr<T>();
  const int64_t M = y.size(1), D = y.size(2);
  each_cloud(y.size(0), [&](int64_t b, const ParallelFor& parallel_for) {
    NearestTree<kDim, T> tree;
    tree.set_points(points + b * M * D, std::max<int64_t>(0, valid_length(lengths, b, M)), D,
                    kMostNeighbours);
    build_trees<kDim, T>({&tree}, parallel_for);
    tree.save(images + b * bytes);
  });
}

Tensor nearest_index_cpu(Tensor y, std::optional<Tensor> y_lengths) {
  check_clouds(y, y);
  const auto m = check_lengths(y_lengths, y);
  const int64_t bytes = image_bytes(y);
  Tensor index = new_tensor(y, {y.size(0) * bytes}, ScalarType::Byte);
  if (index.numel() == 0) return index;
  auto* images = reinterpret_cast<char*>(index.mutable_data_ptr<uint8_t>());
  const Tensor points = torch::stable::contiguous(y);
  with_tree_dim(y.size(2), [&](auto dim) {
    auto* build = y.scalar_type() == ScalarType::Float ? &build_index<dim(), float>
                                                       : &build_index<dim(), double>;
    build(points, data_or_null<int64_t>(m), images, bytes);
  });
  return index;
}

// The k nearest in y by its index. False, and nothing is done, where a search without is faster.
template <class T>
bool query_index(const NearestCall& call, const Tensor& index, const NearestOutput& out,
                 int64_t k) {
  const int64_t bytes = image_bytes(call.y);
  check_index(index, call.y, call.size.B * bytes);
  // With more axes a tree pays only in large clouds, whoever built it.
  const bool slower = call.size.D > 4 && !takes_tree<T>(Method::kAuto, call.size);
  if (index.numel() == 0 || call.size.N > NearestTree<3, T>::kMaxPoints || slower) return false;
  const Problem problem{call.size, call.x_lengths_data(), call.y_lengths_data(), false};
  const Answer<T> to_y{static_cast<T*>(out.dist_x), out.idx_x, call.size.N, k};
  const auto* images = reinterpret_cast<const char*>(index.const_data_ptr<uint8_t>());
  with_tree_dim(call.size.D, [&](auto dim) {
    auto* search = call.norm == 1 ? &search_index<1, dim(), T> : &search_index<2, dim(), T>;
    search(call.x.const_data_ptr<T>(), images, bytes, problem, to_y);
  });
  return true;
}

// By the index where there is one that helps.
void search(const NearestCall& call, const std::optional<Tensor>& index, const NearestOutput& out,
            int64_t k) {
  const bool single = call.x.scalar_type() == ScalarType::Float;
  auto* query = single ? &query_index<float> : &query_index<double>;
  if (index.has_value() && query(call, *index, out, k)) return;
  (single ? &search_typed<float> : &search_typed<double>)(call, out, k);
}

std::tuple<Tensor, Tensor> nearest_query_cpu(Tensor x, std::optional<Tensor> x_lengths, Tensor y,
                                             std::optional<Tensor> y_lengths, Tensor index,
                                             int64_t norm) {
  const NearestCall call = check_nearest(x, y, x_lengths, y_lengths, norm, false, "auto");
  const auto found = run_nearest(
      call, [&](const NearestCall&, const NearestOutput& out) { search(call, index, out, 1); });
  return {std::get<0>(found), std::get<1>(found)};
}

std::tuple<Tensor, Tensor> k_nearest_cpu(Tensor x, Tensor y, std::optional<Tensor> x_lengths,
                                         std::optional<Tensor> y_lengths,
                                         std::optional<Tensor> index, int64_t norm, int64_t k,
                                         std::string method) {
  const KNearestCall call = check_k_nearest(x, y, x_lengths, y_lengths, norm, k, method);
  search(call.search, index, call.output(), k);
  return {call.dist, call.idx};
}

}  // namespace

void search_nearest_cpu(const NearestCall& call, const NearestOutput& out) {
  search(call, std::nullopt, out, 1);
}

}  // namespace pointloss

STABLE_TORCH_LIBRARY_IMPL(pointloss, CPU, m) {
  m.impl("nearest", TORCH_BOX(&pointloss::nearest_cpu));
  m.impl("nearest_index", TORCH_BOX(&pointloss::nearest_index_cpu));
  m.impl("nearest_query", TORCH_BOX(&pointloss::nearest_query_cpu));
  m.impl("k_nearest", TORCH_BOX(&pointloss::k_nearest_cpu));
}
