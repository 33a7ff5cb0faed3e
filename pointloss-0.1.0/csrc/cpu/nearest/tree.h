// SPDX-License-Identifier: MIT
// Nearest neighbours by a tree over each cloud, exact: what brute force answers, bit for bit.
//
// Problem: for each point of one cloud its nearest, or its k nearest, in another, D <= 8, in
// O((n + m) log m) where few boxes are near a point.
// Method: both clouds are ordered into leaves of kWidth points (tree_order.h), the leaves
// carry boxes, and kWidth boxes make a node of the level above, without pointers. The leaves of one
// cloud are the packets of queries that walk the other's tree (tree_search.h), so the two
// trees serve both directions.
// Memory: (kDim + 1) words a point and 2 * kDim / kWidth * kWidth / (kWidth - 1) for the boxes;
// four more while a tree is built. Parallel: build_trees() and ranges of packets take any number of
// threads; the answers do not depend on how many. Within it, parallel_for(begin, end, grain, body)
// calls body(begin, end) on pieces.
//
//   NearestTree<3, float> x, y;
//   x.set_points(x_data, n, 3), y.set_points(y_data, m, 3);
//   build_trees<3, float>({&x, &y}, parallel_for);
//   parallel_for(0, x.packets(), grain, [&](int64_t begin, int64_t end) {
//     nearest_packets<kNorm>(x, begin, end, y.view(), dist, idx, 1);
//   });
//   x.answer_rest(dist, idx, 1);
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "../../common/distance.h"
#include "k_nearest.h"
#include "tree_order.h"
#include "tree_search.h"

namespace pointloss {

// An aligned array that is left as it is: the thread that fills a page is the first to touch it.
template <class T>
class TreeBuffer {
 public:
  void resize(int64_t size) {
    data_.reset();  // before the new one is taken, so that both never exist at once
    if (size > 0) data_.reset(static_cast<T*>(operator new(size * sizeof(T), kAlignment)));
  }
  T* get() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};  // a cache line
  struct Free {
    void operator()(T* data) const { operator delete(data, kAlignment); }
  };
  std::unique_ptr<T, Free> data_;
};

// Above that many axes boxes keep so little away that brute force is as fast.
constexpr int64_t kMaxTreeDim = 8;

template <int kDim, class T>
class NearestTree {
  static_assert(kDim >= 2 && kDim <= kMaxTreeDim);
  static constexpr int64_t W = kWidth<T>;
  static constexpr int64_t kNode = 2 * kDim * W;

 public:
  // An index must fit a lane, and the largest stands for "none".
  static constexpr int64_t kMaxPoints = std::numeric_limits<TreeIndex<T>>::max() - 1;

  // The cloud [m, dim], m <= kMaxPoints, dim <= kDim, which must live until build_trees() is
  // through. Up to `most` nearest points will be searched for in it.
  void set_points(const T* points, int64_t m, int64_t dim, int64_t most = 1) {
    source_ = points;
    most_ = most;
    dim_ = dim;
    total_ = size_ = m;
    leaves_ = 0;
    items_.resize(m);
    nan_.clear();
    infinite_.clear();
  }

  int64_t packets() const { return leaves_; }

  TreeView<T> view() const { return Layout(leaves_).view(boxes_.get(), points_.get(), ids_.get()); }

  // A tree as bytes, aligned to 64 as it must be again where it is viewed: the number of leaves,
  // then boxes, points and ids.
  static int64_t image_bytes(int64_t m) { return Layout((m + W - 1) / W).image_offset(3); }
  void save(char* image) const {
    const Layout layout(leaves_);
    *reinterpret_cast<int64_t*>(image) = leaves_;
    const auto put = [&](int part, const auto* from, int64_t count) {
      if (count > 0) std::memcpy(image + layout.image_offset(part), from, count * sizeof *from);
    };
    put(0, boxes_.get(), layout.nodes() * kNode);
    put(1, points_.get(), leaves_ * kDim * W);
    put(2, ids_.get(), leaves_ * W);
  }
  // Of a cloud of up to m points. Whatever the bytes are, a search stays within them.
  static TreeView<T> view_image(const char* image, int64_t m) {
    const int64_t most = (m + W - 1) / W, leaves = *reinterpret_cast<const int64_t*>(image);
    const Layout layout(std::min(std::max<int64_t>(leaves, 0), most));
    const auto at = [&](int part) {
      return reinterpret_cast<const T*>(image + layout.image_offset(part));
    };
    return layout.view(at(0), at(1), reinterpret_cast<const TreeIndex<T>*>(at(2)));
  }

  // The answers of the points that are in no packet: they have no neighbour.
  void answer_rest(T* dist, int64_t* idx, int64_t k) const {
    const auto answer = [&](int64_t i, T value) {
      std::fill(dist + i * k, dist + (i + 1) * k, value);
      std::fill(idx + i * k, idx + (i + 1) * k, int64_t{-1});
    };
    for (const int64_t i : nan_) answer(i, std::numeric_limits<T>::quiet_NaN());
    for (const int64_t i : infinite_) answer(i, std::numeric_limits<T>::infinity());
  }

 private:
  template <int kD, class U, class ParallelFor>
  friend class TreeBuilder;

  // Where the nodes of a tree of so many leaves are.
  struct Layout {
    int64_t leaves, levels = 0;
    int64_t first[kMaxLevels + 1] = {};  // the first node of each level, then all nodes

    explicit Layout(int64_t leaves_of_tree) : leaves(leaves_of_tree) {
      for (int64_t count = leaves; levels == 0 || count > 1; ++levels) {
        count = (count + W - 1) / W;
        first[levels + 1] = first[levels] + count;
      }
    }
    int64_t nodes() const { return first[levels]; }

    TreeView<T> view(const T* boxes, const T* points, const TreeIndex<T>* ids) const {
      TreeView<T> view{points, ids, {}, {}, levels, leaves};
      for (int64_t l = 0; l < levels; ++l) {
        view.nodes[l] = boxes + first[l] * kNode;
        view.children[l] = l == 0 ? leaves : first[l] - first[l - 1];
      }
      return view;
    }

    // Where boxes (0), points (1) and ids (2) of an image begin, and where it ends (3).
    int64_t image_offset(int part) const {
      const auto whole = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
      int64_t offset = whole(sizeof(int64_t));
      if (part > 0) offset += whole(nodes() * kNode * sizeof(T));
      if (part > 1) offset += whole(leaves * kDim * W * sizeof(T));
      if (part > 2) offset += whole(leaves * W * sizeof(TreeIndex<T>));
      return offset;
    }
  };

  // Returns whether all of these points are finite.
  bool load(int64_t begin, int64_t end) {
    T zero = 0;
    for (int64_t i = begin; i < end; ++i) {
      TreeItem<kDim, T> item{};
      for (int64_t k = 0; k < dim_; ++k) {
        item.at[k] = source_[i * dim_ + k];
        zero += item.at[k] * 0;  // 0 for a finite coordinate, NaN for the others
      }
      item.id = static_cast<TreeIndex<T>>(i);
      items_.get()[i] = item;
    }
    return zero == 0;
  }

  // Takes out the points that are nobody's neighbour: no distance from them is finite.
  void drop_infinite() {
    TreeItem<kDim, T>* items = items_.get();
    size_ = 0;
    for (int64_t i = 0; i < total_; ++i) {
      T zero = 0;
      for (int64_t k = 0; k < kDim; ++k) zero += items[i].at[k] * 0;
      if (zero == 0) {
        items[size_++] = items[i];
      } else {
        (has_nan(items[i].at, kDim) ? nan_ : infinite_).push_back(i);
      }
    }
  }

  void allocate() {
    leaves_ = (size_ + W - 1) / W;
    const Layout layout(leaves_);
    const int64_t nodes = layout.nodes();
    points_.resize(leaves_ * kDim * W);
    ids_.resize(leaves_ * W);
    boxes_.resize(nodes * kNode);
    constexpr T kInf = std::numeric_limits<T>::infinity();
    for (int64_t l = 0; l < layout.levels && nodes > 0;
         ++l) {  // the last node of a level is not full
      T* last = boxes_.get() + (layout.first[l + 1] - 1) * kNode;
      std::fill(last, last + kDim * W, kInf);
      std::fill(last + kDim * W, last + kNode, -kInf);
    }
  }

  LeafArrays<kDim, T> arrays() const {
    return {items_.get(), size_, points_.get(), ids_.get(), boxes_.get(), most_};
  }

  int64_t split(LeafRange range) const {
    const LeafArrays<kDim, T> tree = arrays();
    const int64_t begin = tree.begin(range);
    const TreeBox<kDim, T> box = bounding_box(tree.items + begin, tree.end(range) - begin);
    return split_leaves(tree, range, widest_axis(box));
  }

  // The boxes of the upper levels, after which the items are no longer needed.
  void finish() {
    const Layout layout(leaves_);
    for (int64_t level = 1; level < layout.levels; ++level) {
      for (int64_t node = 0; node < layout.first[level] - layout.first[level - 1]; ++node) {
        const T* lo = boxes_.get() + (layout.first[level - 1] + node) * kNode;
        TreeBox<kDim, T> box;
        for (int64_t k = 0; k < kDim; ++k, lo += W) {
          box.lo[k] = *std::min_element(lo, lo + W);
          box.hi[k] = *std::max_element(lo + kDim * W, lo + (kDim + 1) * W);
        }
        set_box(boxes_.get() + layout.first[level] * kNode, node, box);
      }
    }
    items_.resize(0);
  }

  TreeBuffer<TreeItem<kDim, T>> items_;
  TreeBuffer<T> points_, boxes_;
  TreeBuffer<TreeIndex<T>> ids_;
  std::vector<int64_t> nan_, infinite_;
  const T* source_ = nullptr;
  int64_t dim_ = kDim, total_ = 0, size_ = 0, leaves_ = 0, most_ = 1;
};

// Builds trees together, phase by phase; each phase is a list of independent tasks.
template <int kDim, class T, class ParallelFor>
class TreeBuilder {
  using Tree = NearestTree<kDim, T>;
  struct Task {
    Tree* tree;
    LeafRange range;  // of points while they are loaded, of leaves afterwards
    int64_t result;
  };

  // Small enough to share among threads evenly, large enough to cost more than to hand out.
  static constexpr int64_t kTaskLeaves = 512;
  static constexpr int64_t kTaskPoints = 1 << 14;

 public:
  TreeBuilder(std::initializer_list<Tree*> trees, const ParallelFor& parallel_for)
      : trees_(trees), parallel_for_(parallel_for) {}

  void run() {
    std::vector<Task> loads, whole, parts;
    for (Tree* tree : trees_) {
      for (int64_t i = 0; i < tree->total_; i += kTaskPoints) {
        loads.push_back({tree, {i, std::min(kTaskPoints, tree->total_ - i)}, 0});
      }
      whole.push_back({tree, {0, 0}, 1});
    }
    each(loads, [](Task& task) {
      task.result = task.tree->load(task.range.first, task.range.first + task.range.count);
    });
    for (const Task& load : loads) {
      for (Task& task : whole) task.result &= task.tree != load.tree || load.result;
    }
    each(whole, [](Task& task) {
      if (!task.result) task.tree->drop_infinite();
      task.tree->allocate();
      task.range.count = task.tree->leaves_;
    });
    for (const Task& task : whole) {
      if (task.range.count > 0) parts.push_back(task);
    }
    while (halve(parts)) continue;
    each(parts, [](Task& task) { order_leaves_dispatch(task.tree->arrays(), task.range); });
    each(whole, [](Task& task) { task.tree->finish(); });
  }

 private:
  template <class Body>
  void each(std::vector<Task>& tasks, Body&& body) const {
    parallel_for_(int64_t{0}, static_cast<int64_t>(tasks.size()), int64_t{1},
                  [&](int64_t begin, int64_t end) {
                    for (int64_t t = begin; t < end; ++t) body(tasks[t]);
                  });
  }

  // Splits every part that is too long for one task; false if there was none.
  bool halve(std::vector<Task>& parts) const {
    each(parts, [](Task& task) {
      const bool large = task.range.count > kTaskLeaves;
      task.result = large ? task.tree->split(task.range) : task.range.count;
    });
    std::vector<Task> halves;
    for (const Task& task : parts) {
      const int64_t left = task.result, right = task.range.count - left;
      halves.push_back({task.tree, {task.range.first, left}, 0});
      if (right > 0) halves.push_back({task.tree, {task.range.first + left, right}, 0});
    }
    parts.swap(halves);
    return parts.size() > halves.size();
  }

  std::vector<Tree*> trees_;
  const ParallelFor& parallel_for_;
};

template <int kDim, class T, class ParallelFor>
void build_trees(std::initializer_list<NearestTree<kDim, T>*> trees,
                 const ParallelFor& parallel_for) {
  TreeBuilder<kDim, T, ParallelFor>(trees, parallel_for).run();
}

// The k nearest in the tree y of the points of x in packets [begin, end) of x.packets(). dist and
// idx, [n, k], are in the order of x's cloud; dist is squared for kNorm 2. Calls on disjoint ranges
// may run at once.
template <int kNorm, int kDim, class T>
void nearest_packets(const NearestTree<kDim, T>& x, int64_t begin, int64_t end,
                     const TreeView<T>& y, T* dist, int64_t* idx, int64_t k) {
  const TreeView<T> queries = x.view();
  if (y.leaves > 0) {
    auto* search = k == 1 ? &search_packets_dispatch<PacketSearch<kNorm, kDim, T>, T>
                          : &search_packets_dispatch<KPacketSearch<kNorm, kDim, T>, T>;
    search(queries, begin, end, y, dist, idx, k);
    return;
  }
  for (int64_t i = begin * kWidth<T>; i < end * kWidth<T> && queries.ids[i] >= 0; ++i) {
    std::fill_n(dist + queries.ids[i] * k, k, std::numeric_limits<T>::infinity());
    std::fill_n(idx + queries.ids[i] * k, k, int64_t{-1});
  }
}

// The searches for k neighbours are compiled once, in k_nearest.cpp, for the trees that nearest.cpp
// has: a template that is missing here is a missing symbol there.
#ifdef POINTLOSS_K_NEAREST_HERE
#define POINTLOSS_EXTERN
#else
#define POINTLOSS_EXTERN extern
#endif
#define POINTLOSS_K_TREE(kNorm, kDim, T)                                                    \
  POINTLOSS_EXTERN template void search_packets_dispatch<KPacketSearch<kNorm, kDim, T>, T>( \
      const TreeView<T>&, int64_t, int64_t, const TreeView<T>&, T*, int64_t*, int64_t);
#define POINTLOSS_K_SEARCHES(kNorm, T)                                                \
  POINTLOSS_EXTERN template void k_nearest_rows_dispatch<kNorm, T>(                   \
      const T*, int64_t, int64_t, const T*, int64_t, int64_t, T*, int64_t*, int64_t); \
  POINTLOSS_K_TREE(kNorm, 2, T)                                                       \
  POINTLOSS_K_TREE(kNorm, 3, T)                                                       \
  POINTLOSS_K_TREE(kNorm, 4, T)                                                       \
  POINTLOSS_K_TREE(kNorm, 6, T)                                                       \
  POINTLOSS_K_TREE(kNorm, 8, T)
POINTLOSS_K_SEARCHES(1, float)
POINTLOSS_K_SEARCHES(2, float)
POINTLOSS_K_SEARCHES(1, double)
POINTLOSS_K_SEARCHES(2, double)
#undef POINTLOSS_K_SEARCHES
#undef POINTLOSS_K_TREE
#undef POINTLOSS_EXTERN

}  // namespace pointloss
