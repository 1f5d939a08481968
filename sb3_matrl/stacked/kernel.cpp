// Epochs of clipped policy-gradient steps in float32: what lockstep.py computes, one learner after the other.
//
// native_kernel.py calls sb3_matrl_update() through ctypes; the structures below have the layout of its ctypes classes.
// Matrices are stored row by row. NaN stays NaN through every function here, so that the caller finds it in the parameters.

#include <Python.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <thread>
#include <vector>

// Everything that is worth vectorising is inlined into update_learner's two versions, see the end of this file.
#define INLINE inline __attribute__((always_inline))

using Sgemm = void (*)(const char*, const char*, const int*, const int*, const int*, const float*, const float*, const int*,
                       const float*, const int*, const float*, float*, const int*);
using SetThreads = int (*)(int);

extern "C" {

// Place of a layer in a learner's parameters; weights are (inputs, outputs), those of the last layer (outputs, inputs).
struct Layer {
    int64_t inputs, outputs;
    int64_t weights, biases;  // positions of the first weight and the first bias
    int64_t stride;           // from one row of the weights to the next one
};

struct Learner {
    // Networks: n_layers layers each; unused parameters are zero and stay zero.
    const Layer *actor, *critic;
    int64_t n_layers, n_parameters, log_std;  // log_std: position of the first deviation
    int64_t n_choices;                        // number of choices of discrete actions, 0 for Gaussian ones
    const int64_t* choices;                   // number of options of each choice
    int64_t activation;
    double slope;
    float *parameters, *first, *second;  // parameters and Adam's moments, (n_parameters,)
    double steps;                        // number of steps that Adam has taken
    // Rollout: n_rows rows; states that the critic sees (n_rows, state_stride), null if it sees the features; masks (n_rows,
    // mask_stride) or null.
    int64_t n_rows, feature_stride, state_stride, action_stride, mask_stride;
    const float *features, *states, *actions, *old_log_prob, *old_values, *advantages, *returns, *weights;
    const uint8_t* masks;
    // Minibatches: rows index[starts[k]], ..., index[starts[k] + counts[k] - 1]; all rows in order if starts[k] is negative.
    int64_t n_minibatches;
    const int64_t *index, *starts, *counts;
    // Settings: infinite clip_range_vf and target_kl stand for none.
    double learning_rate, beta1, beta2, eps, clip_range, clip_range_vf, ent_coef, vf_coef, kl_coef, max_grad_norm, target_kl;
    int64_t normalize_advantage;
    // Results: objective, value loss, entropy, clip fraction, KL divergence of the evaluated minibatches, (n_minibatches, 5).
    double* losses;
    int64_t evaluated, stopped, error;
};

struct Call {
    Learner* learners;
    int64_t n_learners, n_threads;
    Sgemm sgemm;
    SetThreads set_threads;  // number of threads of sgemm in this thread; null if it cannot be set
};
}

namespace {

enum Activation { TANH, RELU, LEAKY_RELU };
enum Error { NONE, NO_MEMORY, ILLEGAL_ACTION };

#ifndef CHUNK_ROWS
#define CHUNK_ROWS 256
#endif
// Rows that pass through a network at once: their values stay in the cache of a core.
constexpr int64_t CHUNK = CHUNK_ROWS;
constexpr float NEVER = -1e8f;  // logit of an illegal action
constexpr float LOG_SQRT_2_PI = 0.918938533204672741780329736406f;

// ---------------------------------------------------------------- functions of numbers, written so that loops vectorise

// exp(x) with a relative error below 1.2e-7; infinity above 88.7, subnormal numbers and zero below -87.3.
INLINE float exponential(float x) {
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    const float shifted = x * 1.44269504088896341f + 12582912.0f;  // the sum's lowest bits are the rounded product
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) - n * -2.12194440054690583e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t bits;
    std::memcpy(&bits, &shifted, 4);
    const int32_t whole = bits - 0x4b400000, half = whole >> 1;  // 2^whole in two factors, each of which is a normal number
    const int32_t bits_a = (half + 127) << 23, bits_b = (whole - half + 127) << 23;
    float a, b;
    std::memcpy(&a, &bits_a, 4);
    std::memcpy(&b, &bits_b, 4);
    return p * a * b;
}

// tanh(x) with a relative error below 2e-7.
INLINE float tangent(float x) {
    const float size = std::fabs(x), square = x * x;
    float p = -5.70498872745e-3f;
    p = p * square + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    const float small = p * square * x + x;
    const float large = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    return size < 0.625f ? small : std::copysign(large, x);
}

template <int ACTIVATION>
INLINE float activate(float x, float slope) {
    if (ACTIVATION == TANH) return tangent(x);
    if (ACTIVATION == RELU) return x < 0.0f ? 0.0f : x;
    return x < 0.0f ? x * slope : x;
}

// Derivative of the activation function, from its value.
template <int ACTIVATION>
INLINE float slope_at(float value, float slope) {
    if (ACTIVATION == TANH) return 1.0f - value * value;
    return value > 0.0f ? 1.0f : (ACTIVATION == RELU ? 0.0f : slope);
}

INLINE float clamp(float x, float bound) { return x < -bound ? -bound : (x > bound ? bound : x); }

// ---------------------------------------------------------------- products and layers

// C (m, n) = A B, or C + A B if `add`; A is (m, k), or (k, m) if it is transposed, B is (k, n), or (n, k).
void multiply(Sgemm sgemm, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, bool transpose_a, const float* b,
              int64_t ldb, bool transpose_b, float* c, int64_t ldc, bool add) {
    // BLAS stores matrices column by column, where ours are transposed: C' = B' A'.
    const char mark_a = transpose_a ? 'T' : 'N', mark_b = transpose_b ? 'T' : 'N';
    const int size_m = int(m), size_n = int(n), size_k = int(k), ld_a = int(lda), ld_b = int(ldb), ld_c = int(ldc);
    const float one = 1.0f, beta = add ? 1.0f : 0.0f;
    sgemm(&mark_b, &mark_a, &size_n, &size_m, &size_k, &one, b, &ld_b, a, &ld_a, &beta, c, &ld_c);
}

template <int ACTIVATION>
INLINE void add_bias_and_activate(float* values, const float* bias, int64_t rows, int64_t width, float slope) {
    for (int64_t r = 0; r < rows; ++r) {
        float* row = values + r * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) row[j] = activate<ACTIVATION>(row[j] + bias[j], slope);
    }
}

// Multiply gradients by the derivative of the activation function; add their sum over the rows to the biases' gradients.
template <int ACTIVATION>
INLINE void pass_activation(float* grads, const float* values, float* bias_grads, int64_t rows, int64_t width, float slope) {
    for (int64_t r = 0; r < rows; ++r) {
        float* grad = grads + r * width;
        const float* value = values + r * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) {
            const float g = grad[j] * slope_at<ACTIVATION>(value[j], slope);
            grad[j] = g;
            bias_grads[j] += g;
        }
    }
}

// Arrays in one block of memory, each at the start of a cache line, so that results do not depend on addresses.
class Arena {
public:
    float* take(int64_t size) {
        const int64_t start = used;
        used += (size + 15) / 16 * 16;
        return base == nullptr ? nullptr : base + start;
    }
    // Get memory for all that was taken so far, and start again.
    void allocate() {
        block.assign(size_t(used) + 16, 0.0f);
        base = block.data() + (16 - (reinterpret_cast<uintptr_t>(block.data()) / 4) % 16) % 16;
        used = 0;
    }

private:
    std::vector<float> block;
    float* base = nullptr;
    int64_t used = 0;
};

// ---------------------------------------------------------------- one learner

class Run {
public:
    Run(Learner& learner, Sgemm sgemm) : l(learner), sgemm(sgemm), slope(float(learner.slope)) {
        for (int k = 0; k < 2; ++k) {
            place_arrays();
            if (k == 0) arena.allocate();
        }
    }

    INLINE void steps() {
        for (int64_t k = 0; k < l.n_minibatches; ++k) {
            if (l.counts[k] == 0) continue;
            double* losses = l.losses + 5 * l.evaluated;
            evaluate(k, losses);
            if (l.error) return;
            ++l.evaluated;
            if (losses[4] > 1.5 * l.target_kl) {
                l.stopped = 1;
                return;
            }
            adam(gradient_scale());
        }
    }

private:
    Learner& l;
    const Sgemm sgemm;
    const float slope;
    Arena arena;
    float* grads;
    // One chunk of rows: inputs of actor and critic (CHUNK, inputs); values of the hidden layers (CHUNK, width); gradients of
    // two of them.
    float *actor_inputs, *critic_inputs;
    std::vector<float*> values;
    float* layer_grads[2];
    // By output and row, (outputs, CHUNK): outputs of the networks, then gradients; probabilities or scaled actions; actions.
    float *outputs, *scores, *actions;
    // By row: columns of the rollout, results of the losses, room.
    float *old_log_prob, *old_values, *advantages, *returns, *weights;
    float *log_prob, *entropy, *entropies, *of_log_prob, *highest, *total, *log_total;
    int64_t rows[CHUNK];
    int64_t n = 0;      // number of rows of this chunk
    float share = 0.0;  // share of a row in the minibatch's mean
    bool more = false;  // whether this chunk adds to gradients of earlier ones

    int64_t n_outputs() const { return l.actor[l.n_layers - 1].outputs; }
    int64_t action_size() const { return l.n_choices ? l.n_choices : n_outputs(); }
    int64_t padded() const { return (n + 15) / 16 * 16; }

    void place_arrays() {
        grads = arena.take(l.n_parameters);
        actor_inputs = arena.take(CHUNK * l.actor[0].inputs);
        critic_inputs = l.states ? arena.take(CHUNK * l.critic[0].inputs) : actor_inputs;
        values.clear();
        int64_t widest = 1;
        for (int64_t k = 0; k + 1 < l.n_layers; ++k) {
            const int64_t width = std::max(l.actor[k].outputs, l.critic[k].outputs);
            values.push_back(arena.take(CHUNK * width));
            widest = std::max(widest, width);
        }
        for (float*& one : layer_grads) one = arena.take(CHUNK * widest);
        for (float** one : {&outputs, &scores, &actions}) *one = arena.take(CHUNK * n_outputs());
        for (float** one : {&old_log_prob, &old_values, &advantages, &returns, &weights, &log_prob, &entropy, &of_log_prob,
                            &highest, &total, &log_total})
            *one = arena.take(CHUNK);
        entropies = arena.take(CHUNK * std::max<int64_t>(l.n_choices, 1));
    }

    // Losses and gradients of one minibatch.
    INLINE void evaluate(int64_t k, double* losses) {
        const int64_t count = l.counts[k];
        const int64_t* index = l.starts[k] < 0 ? nullptr : l.index + l.starts[k];
        float mean = 0.0f, deviation = 1.0f;
        if (l.normalize_advantage && count > 1) normalization(index, count, mean, deviation);
        share = float(1.0 / double(count));
        std::fill(losses, losses + 5, 0.0);
        for (int64_t start = 0; start < count; start += CHUNK) {
            n = std::min(CHUNK, count - start);
            more = start > 0;
            for (int64_t r = 0; r < n; ++r) rows[r] = index ? index[start + r] : start + r;
            gather(mean, deviation);
            pass_forward(l.actor, actor_inputs);
            if (l.n_choices) categorical(losses); else gaussian(losses);
            if (l.error) return;
            pass_backward(l.actor, actor_inputs);
            pass_forward(l.critic, critic_inputs);
            value_losses(losses);
            pass_backward(l.critic, critic_inputs);
        }
    }

    // Mean and standard deviation of the advantages of a minibatch, by which they are normalised.
    INLINE void normalization(const int64_t* index, int64_t count, float& mean, float& deviation) const {
        double sum = 0.0, squares = 0.0;
        for (int64_t r = 0; r < count; ++r) sum += l.advantages[index ? index[r] : r];
        sum /= double(count);
        for (int64_t r = 0; r < count; ++r) {
            const double distance = l.advantages[index ? index[r] : r] - sum;
            squares += distance * distance;
        }
        mean = float(sum);
        deviation = float(std::sqrt(squares / double(count - 1))) + 1e-8f;
    }

    INLINE void gather_inputs(float* inputs, const float* from, int64_t stride, int64_t width) {
        for (int64_t r = 0; r < n; ++r) std::memcpy(inputs + r * width, from + rows[r] * stride, sizeof(float) * size_t(width));
    }

    INLINE void gather(float mean, float deviation) {
        gather_inputs(actor_inputs, l.features, l.feature_stride, l.actor[0].inputs);
        if (l.states) gather_inputs(critic_inputs, l.states, l.state_stride, l.critic[0].inputs);
        for (int64_t r = 0; r < n; ++r) {
            const int64_t row = rows[r];
            old_log_prob[r] = l.old_log_prob[row];
            old_values[r] = l.old_values[row];
            advantages[r] = (l.advantages[row] - mean) / deviation;
            returns[r] = l.returns[row];
            weights[r] = l.weights[row];
        }
        for (int64_t j = 0; j < action_size(); ++j)
            for (int64_t r = 0; r < n; ++r) actions[j * CHUNK + r] = l.actions[rows[r] * l.action_stride + j];
    }

    // Outputs (outputs, rows): thin products are several times faster this way round.
    INLINE void pass_forward(const Layer* layers, const float* inputs) {
        const float* below = inputs;
        for (int64_t k = 0; k + 1 < l.n_layers; ++k) {
            const Layer& one = layers[k];
            multiply(sgemm, n, one.outputs, one.inputs, below, one.inputs, false, l.parameters + one.weights, one.stride,
                     false, values[size_t(k)], one.outputs, false);
            const float* bias = l.parameters + one.biases;
            if (l.activation == TANH) add_bias_and_activate<TANH>(values[size_t(k)], bias, n, one.outputs, slope);
            else if (l.activation == RELU) add_bias_and_activate<RELU>(values[size_t(k)], bias, n, one.outputs, slope);
            else add_bias_and_activate<LEAKY_RELU>(values[size_t(k)], bias, n, one.outputs, slope);
            below = values[size_t(k)];
        }
        const Layer& last = layers[l.n_layers - 1];
        multiply(sgemm, last.outputs, n, last.inputs, l.parameters + last.weights, last.stride, false, below, last.inputs,
                 true, outputs, CHUNK, false);
        for (int64_t j = 0; j < last.outputs; ++j) {
            float* row = outputs + j * CHUNK;
            const float bias = l.parameters[last.biases + j];
#pragma omp simd
            for (int64_t r = 0; r < n; ++r) row[r] += bias;
        }
    }

    // Add the gradients of all weights and biases; `outputs` holds the loss's gradient with respect to the outputs.
    INLINE void pass_backward(const Layer* layers, const float* inputs) {
        const Layer& last = layers[l.n_layers - 1];
        start_biases(layers);
        for (int64_t j = 0; j < last.outputs; ++j) {
            const float* row = outputs + j * CHUNK;
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t r = 0; r < n; ++r) sum += row[r];
            grads[last.biases + j] += sum;
        }
        const float* below = l.n_layers > 1 ? values[size_t(l.n_layers - 2)] : inputs;
        multiply(sgemm, last.outputs, last.inputs, n, outputs, CHUNK, false, below, last.inputs, false, grads + last.weights,
                 last.stride, more);
        for (int64_t k = l.n_layers - 2; k >= 0; --k) {
            const Layer &one = layers[k], &above = layers[k + 1];
            float* here = layer_grads[k % 2];
            const float* there = layer_grads[(k + 1) % 2];
            if (k + 2 == l.n_layers)
                multiply(sgemm, n, one.outputs, above.outputs, outputs, CHUNK, true, l.parameters + above.weights,
                         above.stride, false, here, one.outputs, false);
            else
                multiply(sgemm, n, one.outputs, above.outputs, there, above.outputs, false, l.parameters + above.weights,
                         above.stride, true, here, one.outputs, false);
            float* bias_grads = grads + one.biases;
            const float* result = values[size_t(k)];
            if (l.activation == TANH) pass_activation<TANH>(here, result, bias_grads, n, one.outputs, slope);
            else if (l.activation == RELU) pass_activation<RELU>(here, result, bias_grads, n, one.outputs, slope);
            else pass_activation<LEAKY_RELU>(here, result, bias_grads, n, one.outputs, slope);
            multiply(sgemm, one.inputs, one.outputs, n, k ? values[size_t(k - 1)] : inputs, one.inputs, true, here,
                     one.outputs, false, grads + one.weights, one.stride, more);
        }
    }

    // The first chunk's gradients replace those of the last minibatch: products do it by themselves, sums start at zero.
    INLINE void start_biases(const Layer* layers) {
        if (more) return;
        for (int64_t k = 0; k < l.n_layers; ++k)
            std::fill_n(grads + layers[k].biases, layers[k].outputs, 0.0f);
    }

    // The losses of rows and their derivatives with respect to the log-densities.
    INLINE void surrogate(double* losses) {
        const float clip = float(l.clip_range), kl_coef = float(l.kl_coef);
        float objective = 0.0f, uncertainty = 0.0f, outside = 0.0f, divergence = 0.0f;
#pragma omp simd reduction(+ : objective, uncertainty, outside, divergence)
        for (int64_t r = 0; r < n; ++r) {
            const float log_ratio = log_prob[r] - old_log_prob[r], ratio = exponential(log_ratio), distance = ratio - 1.0f;
            const float plain = advantages[r] * ratio, clipped = advantages[r] * (1.0f + clamp(distance, clip));
            const bool out = std::fabs(distance) > clip;
            // The minimum has no slope where the clipped term is the smaller one.
            const float slope_of_minimum = out & (plain >= clipped) ? 0.0f : plain;
            of_log_prob[r] = share * (kl_coef * distance - weights[r] * slope_of_minimum);
            objective += weights[r] * (clipped < plain ? clipped : plain);
            uncertainty += entropy[r];
            outside += out ? 1.0f : 0.0f;
            divergence += distance - log_ratio;
        }
        losses[0] += double(objective) * share;
        losses[2] += double(uncertainty) * share;
        losses[3] += double(outside) * share;
        losses[4] += double(divergence) * share;
    }

    INLINE void value_losses(double* losses) {
        const float bound = float(l.clip_range_vf), factor = float(2.0 * l.vf_coef) * share;
        const bool clipping = !std::isinf(l.clip_range_vf);
        float squares = 0.0f;
        float* value = outputs;
#pragma omp simd reduction(+ : squares)
        for (int64_t r = 0; r < n; ++r) {
            const float change = value[r] - old_values[r];
            const float error = (clipping ? old_values[r] + clamp(change, bound) : value[r]) - returns[r];
            squares += error * error;
            value[r] = clipping & (std::fabs(change) > bound) ? 0.0f : error * factor;
        }
        losses[1] += double(squares) * share;
    }

    // ------------------------------------------------------------ discrete actions

    INLINE void categorical(double* losses) {
        forbid();
        std::fill_n(log_prob, n, 0.0f);
        std::fill_n(entropy, n, 0.0f);
        int64_t start = 0;
        for (int64_t c = 0; c < l.n_choices; start += l.choices[c++]) {
            log_softmax(start, l.choices[c], entropies + c * CHUNK);
            choose(start, c);
            if (l.error) return;
        }
        surrogate(losses);
        start = 0;
        for (int64_t c = 0; c < l.n_choices; start += l.choices[c++]) logit_gradients(start, c);
        if (l.masks) remove_illegal(0.0f);
    }

    INLINE void forbid() {
        if (l.masks) remove_illegal(NEVER);
    }

    INLINE void remove_illegal(float value) {
        const int64_t size = n_outputs();
        for (int64_t r = 0; r < n; ++r) {
            const uint8_t* legal = l.masks + rows[r] * l.mask_stride;
            for (int64_t j = 0; j < size; ++j)
                if (!legal[j]) outputs[j * CHUNK + r] = value;
        }
    }

    // Replace the logits of one choice by log-probabilities; fill in probabilities and entropies.
    INLINE void log_softmax(int64_t start, int64_t size, float* of_choice) {
        float *logits = outputs + start * CHUNK, *probs = scores + start * CHUNK;
        std::copy_n(logits, n, highest);
        for (int64_t j = 1; j < size; ++j)
#pragma omp simd
            for (int64_t r = 0; r < n; ++r) highest[r] = std::max(highest[r], logits[j * CHUNK + r]);
        std::fill_n(total, n, 0.0f);
        for (int64_t j = 0; j < size; ++j)
#pragma omp simd
            for (int64_t r = 0; r < n; ++r) {
                const float one = exponential(logits[j * CHUNK + r] - highest[r]);
                probs[j * CHUNK + r] = one;
                total[r] += one;
            }
        for (int64_t r = 0; r < n; ++r) log_total[r] = std::log(total[r]);
        std::fill_n(of_choice, n, 0.0f);
        for (int64_t j = 0; j < size; ++j)
#pragma omp simd
            for (int64_t r = 0; r < n; ++r) {
                // In this order, because a sum of `highest` and the logarithm loses the latter if all actions are illegal.
                const float log_p = (logits[j * CHUNK + r] - highest[r]) - log_total[r], p = probs[j * CHUNK + r] / total[r];
                logits[j * CHUNK + r] = log_p;
                probs[j * CHUNK + r] = p;
                of_choice[r] -= p * log_p;
            }
    }

    INLINE void choose(int64_t start, int64_t choice) {
        const float *chosen = actions + choice * CHUNK, *of_choice = entropies + choice * CHUNK;
        const float size = float(l.choices[choice]);
        for (int64_t r = 0; r < n; ++r) {
            if (!(chosen[r] >= 0.0f && chosen[r] < size)) {
                l.error = ILLEGAL_ACTION;
                return;
            }
            log_prob[r] += outputs[(start + int64_t(chosen[r])) * CHUNK + r];
            entropy[r] += of_choice[r];
        }
    }

    // d entropy / d logit = -p (log p + entropy); d log p(a) / d logit = [logit of a] - p
    INLINE void logit_gradients(int64_t start, int64_t choice) {
        const float of_entropy = -float(l.ent_coef) * share;
        const float *of_choice = entropies + choice * CHUNK, *chosen = actions + choice * CHUNK;
        for (int64_t j = 0; j < l.choices[choice]; ++j) {
            float *grad = outputs + (start + j) * CHUNK, *p = scores + (start + j) * CHUNK;
#pragma omp simd
            for (int64_t r = 0; r < n; ++r) grad[r] = -p[r] * ((grad[r] + of_choice[r]) * of_entropy + of_log_prob[r]);
        }
        for (int64_t r = 0; r < n; ++r) outputs[(start + int64_t(chosen[r])) * CHUNK + r] += of_log_prob[r];
    }

    // ------------------------------------------------------------ Gaussian actions

    INLINE void gaussian(double* losses) {
        const int64_t size = n_outputs();
        const float* log_std = l.parameters + l.log_std;
        float constant = 0.0f;
        for (int64_t j = 0; j < size; ++j) constant += log_std[j] + LOG_SQRT_2_PI;
        std::fill_n(log_prob, n, 0.0f);
        std::fill_n(entropy, n, 0.5f * float(size) + constant);
        for (int64_t j = 0; j < size; ++j) {
            const float precision = std::exp(-log_std[j]);
            float* scaled = scores + j * CHUNK;
#pragma omp simd
            for (int64_t r = 0; r < n; ++r) {
                scaled[r] = (actions[j * CHUNK + r] - outputs[j * CHUNK + r]) * precision;
                log_prob[r] += scaled[r] * scaled[r];
            }
        }
#pragma omp simd
        for (int64_t r = 0; r < n; ++r) log_prob[r] = -0.5f * log_prob[r] - constant;
        surrogate(losses);
        for (int64_t j = 0; j < size; ++j) mean_gradients(j, std::exp(-log_std[j]));
    }

    INLINE void mean_gradients(int64_t j, float precision) {
        float *scaled = scores + j * CHUNK, *grad = outputs + j * CHUNK, sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t r = 0; r < n; ++r) {
            grad[r] = scaled[r] * precision * of_log_prob[r];
            sum += (scaled[r] * scaled[r] - 1.0f) * of_log_prob[r];
        }
        float& of_log_std = grads[l.log_std + j];
        of_log_std = (more ? of_log_std : 0.0f) + sum - float(l.ent_coef) * share * float(n);
    }

    // ------------------------------------------------------------ the step

    // Factor that limits the norm of the gradient.
    INLINE float gradient_scale() const {
        double squares = 0.0;
        for (int64_t start = 0; start < l.n_parameters; start += 4096) {
            const int64_t end = std::min(start + 4096, l.n_parameters);
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = start; i < end; ++i) sum += grads[i] * grads[i];
            squares += sum;
        }
        const float scale = float(l.max_grad_norm) / (float(std::sqrt(squares)) + 1e-6f);
        return scale > 1.0f ? 1.0f : scale;
    }

    INLINE void adam(float scale) {
        l.steps += 1.0;
        const float step = float(l.learning_rate / (1.0 - std::pow(l.beta1, l.steps)));
        const float correction = float(1.0 / std::sqrt(1.0 - std::pow(l.beta2, l.steps)));
        const float decay = float(l.beta2), gain1 = float(1.0 - l.beta1), gain2 = float(1.0 - l.beta2), eps = float(l.eps);
        float *parameters = l.parameters, *first = l.first, *second = l.second;
        const float* grad = grads;
#pragma omp simd
        for (int64_t i = 0; i < l.n_parameters; ++i) {
            const float g = grad[i] * scale;
            const float m = first[i] + gain1 * (g - first[i]), v = second[i] * decay + gain2 * g * g;
            first[i] = m;
            second[i] = v;
            parameters[i] -= step * m / (std::sqrt(v) * correction + eps);
        }
    }
};

INLINE void update_learner(Learner& learner, Sgemm sgemm) {
    try {
        Run(learner, sgemm).steps();
    } catch (const std::bad_alloc&) {
        learner.error = NO_MEMORY;
    }
}

// The processor decides at run time which version runs.
void update_portable(Learner& learner, Sgemm sgemm) { update_learner(learner, sgemm); }

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void update_avx2(Learner& learner, Sgemm sgemm) { update_learner(learner, sgemm); }

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#else
void update_avx2(Learner& learner, Sgemm sgemm) { update_learner(learner, sgemm); }

bool has_avx2() { return false; }
#endif

// Update learners until none is left; each product runs on this thread alone, so that its result does not depend on threads.
void work(const Call& call, std::atomic<int64_t>& next) {
    const auto one = has_avx2() ? update_avx2 : update_portable;
    const int before = call.set_threads ? call.set_threads(1) : 0;
    for (int64_t i = next++; i < call.n_learners; i = next++) one(call.learners[i], call.sgemm);
    if (call.set_threads) call.set_threads(before);
}

}  // namespace

extern "C" {

// Take the steps of all learners. Nothing is thrown: `error` of each learner says what went wrong.
__attribute__((visibility("default"))) void sb3_matrl_update(const Call* call) {
    std::atomic<int64_t> next{0};
    std::vector<std::thread> threads;
    try {
        while (int64_t(threads.size()) + 1 < call->n_threads) threads.emplace_back([&] { work(*call, next); });
    } catch (...) {
        // The threads that could be started, and this one, do all the work.
    }
    work(*call, next);
    for (std::thread& one : threads) one.join();
}

// Size of a Learner, by which native_kernel.py notices a library that was compiled for another layout.
__attribute__((visibility("default"))) int sb3_matrl_learner_size() { return int(sizeof(Learner)); }

// Python can import the library as a module without content; ctypes finds its file that way.
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernel", "Gradient steps in C++, see native_kernel.py.", -1,
                                 nullptr, nullptr, nullptr, nullptr, nullptr};
PyMODINIT_FUNC PyInit__kernel() { return PyModule_Create(&definition); }
}
