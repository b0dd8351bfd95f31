/* Convolutions of maps whose channels lie side by side, (N, H, W, C), and what lies between them, for what the processor
 * has.
 *
 * All sums are made in the order of one image by itself: neither its place nor the number of images changes a bit. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "../../processor.h"

#define TILE 4
#define REACH 6
#define PRODUCTS 36
#define SPARE 12 /* tiles that are multiplied at once, at most */
#define NEAR 0.70710678118654752f
#define FAR 1.41421356237309505f
#define COLOURS 3 /* channels of results, at most, for which there is a way of their own */
#define PHASES 16 /* at most */
#define INLINE static inline __attribute__((always_inline))

struct tiled {
    const float *images, *kernels, *bias;
    float *results;
    long count;
    int height, width, channels, made, padding, block;
};

/* Results that meet the same taps. Neighbours in a row of an image lie side by side: `channels` of all of them in one. */
struct phase {
    const float *kernels;
    const int *sources, *places; /* (pixels, taps): where a result's pixels are, negative: zeros; (pixels,): where it is */
    int pixels, taps, channels;
};

struct listed {
    const float *images, *bias;
    float *results;
    long count;
    int height, width, channels, left, right; /* of an image, and columns of zeros that the lists want beside it */
    long result_step; /* floats from one image of results to the next */
    int made, few, phases, most; /* most channels of a phase */
    struct phase phase[PHASES];
};

/* One convolution, but for its images. */
struct job {
    int lanes, is_tiled;
    size_t room; /* floats that it needs besides */
    union {
        struct tiled tiled;
        struct listed listed;
    };
};

typedef float quarter __attribute__((vector_size(16)));
typedef float eight __attribute__((vector_size(32), aligned(4)));
typedef int eight_whole __attribute__((vector_size(32), aligned(4)));

struct vectors {
    void (*winograd)(const struct tiled *, float *);
    void (*direct)(const struct listed *, float *);
    void (*above)(const float *, float *, unsigned char *, long);
    void (*chosen)(const float *, float *, const unsigned char *, long);
    void (*summed)(const float *, const float *, float *, long);
};

/* The signs of eight whole numbers, -1 or 0. */
static inline unsigned char bits_of(const eight_whole *kept) {
    int bits = 0;
    for (int i = 0; i < 8; i++) bits |= ((*kept)[i] & 1) << i;
    return (unsigned char)bits;
}

#if defined(ANY_PROCESSOR)

/* For tests: every kind of vectors, made by the compiler of what this processor has. */
#undef BEGIN
#undef END
#define BEGIN(features)
#define END
#define OPAQUE(value) (void)0
#define HALVES_8 NAME(halves)
#define HALVES_16 NAME(halves)
#define EIGHT_BITS(kept) bits_of(&kept)
#define SUPPORTS(feature) 1

#elif defined(__x86_64__)

/* What is in a register stays there: the compiler would load it once more in another form. */
#define OPAQUE(value) __asm__("" : "+v"(value))
#define HALVES_8(one, other) (VECTOR) _mm256_blend_ps((__m256)one, (__m256)other, 0xf0)
#define HALVES_16(one, other) (VECTOR) _mm512_mask_blend_ps(0xff00, (__m512)one, (__m512)other)
#define EIGHT_BITS(kept) (unsigned char)_mm256_movemask_ps((__m256)kept)
#define SUPPORTS(feature) __builtin_cpu_supports(feature)

#else

#define OPAQUE(value) (void)0
#define EIGHT_BITS(kept) bits_of(&kept)

#endif

#if defined(__x86_64__) || defined(ANY_PROCESSOR)

BEGIN("avx2,fma")
#define LANES 8
#define AT_ONCE 4
#define HALVES HALVES_8
#define NAME(name) name##_8
#include "vectors.h"
#include "winograd.h"
#include "direct.h"
#include "chain.h"
#include "end.h"
END

BEGIN("avx512f,avx2,fma")
#define LANES 16
#define AT_ONCE 8
#define HALVES HALVES_16
#define NAME(name) name##_16
#include "vectors.h"
#include "winograd.h"
#include "direct.h"
#include "chain.h"
#include "end.h"
END

#endif

#if !defined(__x86_64__) || defined(ANY_PROCESSOR)

#define LANES 4
#define AT_ONCE 8
#define HALVES NAME(halves)
#define NAME(name) name##_4
#include "vectors.h"
#include "winograd.h"
#include "direct.h"
#include "chain.h"
#include "end.h"

#endif

static int vectors_of(int lanes, struct vectors *found) {
#if !defined(__x86_64__) || defined(ANY_PROCESSOR)
    *found = (struct vectors){winograd_4, direct_4, above_4, chosen_4, summed_4};
    if (lanes == 4) return 1;
#endif
#if defined(__x86_64__) || defined(ANY_PROCESSOR)
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    if (lanes == 8 && SUPPORTS("avx2") && SUPPORTS("fma")) {
        *found = (struct vectors){winograd_8, direct_8, above_8, chosen_8, summed_8};
        return 1;
    }
    if (lanes == 16 && SUPPORTS("avx512f")) {
        *found = (struct vectors){winograd_16, direct_16, above_16, chosen_16, summed_16};
        return 1;
    }
#endif
    return 0;
}

/* Room that a thread keeps from call to call: to get it anew each time would cost as much as the sums. */
static __thread float *kept;
static __thread size_t kept_floats;

static float *room_for(size_t floats) {
    if (!kept || floats > kept_floats) {
        free(kept);
        kept = malloc((floats + 1) * sizeof(float));
        kept_floats = kept ? floats : 0;
    }
    return kept;
}

static PyObject *refused(int lanes, int channels, int made) {
    return PyErr_Format(PyExc_ValueError, "expected vectors that this processor has and channels for them, got %d floats "
                        "for %d to %d channels", lanes, channels, made);
}

static PyObject *has(PyObject *self, PyObject *arguments) {
    struct vectors found;
    int lanes;
    if (!PyArg_ParseTuple(arguments, "i", &lanes)) return NULL;
    return PyBool_FromLong(vectors_of(lanes, &found));
}

/* `count` images from `images` on; `room` is as large as the job says. */
static void compute(struct job *job, const struct vectors *vectors, const float *images, const float *bias,
                    float *results, long count, float *room) {
    if (job->is_tiled) {
        job->tiled.images = images;
        job->tiled.bias = bias;
        job->tiled.results = results;
        job->tiled.count = count;
        vectors->winograd(&job->tiled, room);
    } else {
        job->listed.images = images;
        job->listed.bias = bias;
        job->listed.results = results;
        job->listed.count = count;
        vectors->direct(&job->listed, room);
    }
}

static PyObject *winograd(PyObject *self, PyObject *arguments) {
    unsigned long long kernels;
    struct vectors vectors;
    struct job job = {.is_tiled = 1};
    struct tiled *tiled = &job.tiled;
    if (!PyArg_ParseTuple(arguments, "i(iii)Kiii", &job.lanes, &tiled->height, &tiled->width, &tiled->channels,
                          &kernels, &tiled->padding, &tiled->block, &tiled->made))
        return NULL;
    if (!vectors_of(job.lanes, &vectors) || tiled->channels < job.lanes || tiled->made < job.lanes || tiled->block < 1)
        return refused(job.lanes, tiled->channels, tiled->made);
    tiled->kernels = (const float *)kernels;
    size_t padded = (size_t)(tiled->made + job.lanes - 1) / job.lanes * job.lanes;
    job.room = PRODUCTS * (size_t)(tiled->block + SPARE) * (tiled->channels + padded) + tiled->channels;
    return PyBytes_FromStringAndSize((const char *)&job, sizeof job);
}

static PyObject *direct(PyObject *self, PyObject *arguments) {
    struct vectors vectors;
    struct job job = {.is_tiled = 0};
    struct listed *listed = &job.listed;
    PyObject *phases;
    if (!PyArg_ParseTuple(arguments, "i(iii)(ii)O!(li)i", &job.lanes, &listed->height, &listed->width,
                          &listed->channels, &listed->left, &listed->right, &PyTuple_Type, &phases,
                          &listed->result_step, &listed->made, &listed->few))
        return NULL;
    if (!vectors_of(job.lanes, &vectors) || listed->channels < (listed->few ? job.lanes : 1) || listed->made < 1 ||
        (listed->few && listed->made > COLOURS))
        return refused(job.lanes, listed->channels, listed->made);
    listed->most = listed->channels;
    Py_ssize_t known = PyTuple_Size(phases);
    if (known > PHASES) return PyErr_Format(PyExc_ValueError, "expected at most %d phases, got %zd", PHASES, known);
    listed->phases = (int)known;
    for (int p = 0; p < listed->phases; p++) {
        unsigned long long kernels, sources, places;
        struct phase *phase = listed->phase + p;
        if (!PyArg_ParseTuple(PyTuple_GetItem(phases, p), "KK(iii)K", &kernels, &sources, &phase->pixels, &phase->taps,
                              &phase->channels, &places))
            return NULL;
        phase->kernels = (const float *)kernels;
        phase->sources = (const int *)sources;
        phase->places = (const int *)places;
        if (phase->channels > listed->most) listed->most = phase->channels;
    }
    size_t wide = (size_t)listed->left + listed->width + listed->right;
    size_t copy = listed->left + listed->right ? wide * listed->height * listed->channels : 0;
    job.room = copy + listed->most + listed->made + 2 * (size_t)job.lanes;
    return PyBytes_FromStringAndSize((const char *)&job, sizeof job);
}

static PyObject *run(PyObject *self, PyObject *arguments) {
    unsigned long long images, bias, results;
    struct vectors vectors;
    struct job job;
    const char *given;
    Py_ssize_t size;
    long count;
    if (!PyArg_ParseTuple(arguments, "y#KKKl", &given, &size, &images, &bias, &results, &count)) return NULL;
    if (size != sizeof job) return PyErr_Format(PyExc_ValueError, "expected a job, got %zd bytes", size);
    memcpy(&job, given, sizeof job);
    float *room = room_for(job.room);
    if (!room || !vectors_of(job.lanes, &vectors)) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    compute(&job, &vectors, (const float *)images, (const float *)bias, (float *)results, count, room);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

#include "program.h"

static PyObject *chain(PyObject *self, PyObject *arguments) {
    unsigned long long steps, values, given, bits, cuts;
    struct vectors widest;
    struct chain job;
    int lanes;
    if (!PyArg_ParseTuple(arguments, "iKlK(ll)KKlKll", &lanes, &steps, &job.length, &values, &job.all, &job.few, &given,
                          &bits, &job.image_bits, &cuts, &job.start, &job.count))
        return NULL;
    if (!vectors_of(lanes, &widest)) return refused(lanes, 1, 1);
    job.steps = (const struct step *)steps;
    job.values = (const struct value *)values;
    job.given = (float *const *)given;
    job.bits = (unsigned char *)bits;
    job.cuts = (const struct cut *)cuts;
    size_t besides = 0;
    for (const struct step *step = job.steps; step < job.steps + job.length; step++) {
        if (step->kind == CONVOLUTION && ((const struct job *)step->job)->room > besides)
            besides = ((const struct job *)step->job)->room;
        if (step->kind == AROUND && !fits(job.cuts + step->job, job.start, job.count))
            return PyErr_Format(PyExc_ValueError, "expected windows inside the maps");
    }
    float *room = room_for((size_t)job.all * job.count + job.few + besides);
    if (!room) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    in_order(&job, &widest, room);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"has", has, METH_VARARGS, NULL},
    {"winograd", winograd, METH_VARARGS, NULL},
    {"direct", direct, METH_VARARGS, NULL},
    {"run", run, METH_VARARGS, NULL},
    {"chain", chain, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_compiled", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__compiled(void) { return PyModule_Create(&module); }
