// One generated token of one sequence, one block for each of its key heads: turns query and key by the token's position, writes key
// and value into the sequence's row, and attends to the row up to that position. Softmax runs online (Milakov and Gimelshein 2018,
// arXiv 1805.02867), each warp over its share of the positions, joined at the end.
//
// T: type; HEADS, KV_HEADS, HEAD_DIM; TURNED: elements of a head that are turned; WINDOW: positions seen, 0 for all.
constexpr int GROUP = HEADS / KV_HEADS;
constexpr int PER_LANE = HEAD_DIM / 32;
constexpr int WARPS = 8;
const float NOTHING = __int_as_float(0xff800000);  // minus infinity
struct alignas(sizeof(T) * PER_LANE) Pack {
  T values[PER_LANE];
};
__shared__ float queries[GROUP][HEAD_DIM];
__shared__ float shares[WARPS][GROUP][HEAD_DIM + 2];

const int token = blockIdx.x / KV_HEADS;
const int head = blockIdx.x % KV_HEADS;
const int warp = threadIdx.x / 32;
const int lane = threadIdx.x % 32;
const int position = positions[token];
const long source = offsets[token];
const long capacity = keys_shape[2];
const long row = (static_cast<long>(rows[token]) * KV_HEADS + head) * capacity * HEAD_DIM;
// The row belongs to this sequence alone, and nothing reads it before this launch has ended.
T* row_keys = const_cast<T*>(keys) + row;
T* row_values = const_cast<T*>(values) + row;
const float scale = scales[0];
const float turned_scale = scales[1];

for (int i = threadIdx.x; i < (GROUP + 1) * HEAD_DIM; i += WARPS * 32) {
  const int which = i / HEAD_DIM;
  const int element = i % HEAD_DIM;
  const T* from = which < GROUP ? q + (source * HEADS + head * GROUP + which) * HEAD_DIM
                                : k + (source * KV_HEADS + head) * HEAD_DIM;
  float value = static_cast<float>(from[element]);
  if (element < TURNED) {
    constexpr int half = TURNED / 2;
    const bool first = element < half;
    const float other = static_cast<float>(from[first ? element + half : element - half]);
    float sine, cosine;
    sincosf(static_cast<float>(position) / periods[first ? element : element - half], &sine, &cosine);
    value = (first ? value * cosine - other * sine : value * cosine + other * sine) * turned_scale;
  }
  const T rounded = static_cast<T>(value);
  if (which < GROUP) {
    queries[which][element] = static_cast<float>(rounded) * scale;
  } else {
    row_keys[static_cast<long>(position) * HEAD_DIM + element] = rounded;
    row_values[static_cast<long>(position) * HEAD_DIM + element] = v[(source * KV_HEADS + head) * HEAD_DIM + element];
  }
}
__syncthreads();

float query[GROUP][PER_LANE];
float sum[GROUP][PER_LANE];
float highest[GROUP];
float total[GROUP];
for (int g = 0; g < GROUP; ++g) {
  highest[g] = NOTHING;
  total[g] = 0;
  for (int j = 0; j < PER_LANE; ++j) {
    query[g][j] = queries[g][lane * PER_LANE + j];
    sum[g][j] = 0;
  }
}
const int from = WINDOW > 0 && position >= WINDOW ? position - WINDOW + 1 : 0;
#pragma unroll 2
for (int t = from + warp; t <= position; t += WARPS) {
  const Pack key = *reinterpret_cast<const Pack*>(row_keys + static_cast<long>(t) * HEAD_DIM + lane * PER_LANE);
  const Pack value = *reinterpret_cast<const Pack*>(row_values + static_cast<long>(t) * HEAD_DIM + lane * PER_LANE);
  for (int g = 0; g < GROUP; ++g) {
    float score = 0;
    for (int j = 0; j < PER_LANE; ++j) {
      score += query[g][j] * static_cast<float>(key.values[j]);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
      score += __shfl_xor_sync(0xffffffff, score, distance);
    }
    const float raised = fmaxf(highest[g], score);
    const float kept = __expf(highest[g] - raised);
    const float weight = __expf(score - raised);
    highest[g] = raised;
    total[g] = total[g] * kept + weight;
    for (int j = 0; j < PER_LANE; ++j) {
      sum[g][j] = sum[g][j] * kept + weight * static_cast<float>(value.values[j]);
    }
  }
}
for (int g = 0; g < GROUP; ++g) {
  for (int j = 0; j < PER_LANE; ++j) {
    shares[warp][g][lane * PER_LANE + j] = sum[g][j];
  }
  if (lane == 0) {
    shares[warp][g][HEAD_DIM] = highest[g];
    shares[warp][g][HEAD_DIM + 1] = total[g];
  }
}
__syncthreads();

for (int i = threadIdx.x; i < GROUP * HEAD_DIM; i += WARPS * 32) {
  const int g = i / HEAD_DIM;
  const int element = i % HEAD_DIM;
  float most = NOTHING;
  for (int w = 0; w < WARPS; ++w) {
    most = fmaxf(most, shares[w][g][HEAD_DIM]);
  }
  float over = 0;
  float under = 0;
  for (int w = 0; w < WARPS; ++w) {
    const float share = __expf(shares[w][g][HEAD_DIM] - most);
    over += share * shares[w][g][element];
    under += share * shares[w][g][HEAD_DIM + 1];
  }
  out[(static_cast<long>(token) * HEADS + head * GROUP + g) * HEAD_DIM + element] = static_cast<T>(over / under);
}
