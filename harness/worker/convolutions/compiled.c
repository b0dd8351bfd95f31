/* Convolutions of maps whose channels lie side by side, (N, H, W, C), for what the processor has.
 *
 * All sums are made in the order of one image by itself: neither its place nor the number of images changes a bit. */

#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
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

typedef float quarter __attribute__((vector_size(16)));

struct vectors {
    void (*winograd)(const struct tiled *, float *);
    void (*direct)(const struct listed *, float *);
};

#if defined(ANY_PROCESSOR)

/* For tests: every kind of vectors, made by the compiler of what this processor has. */
#undef BEGIN
#undef END
#define BEGIN(features)
#define END
#define OPAQUE(value) (void)0
#define HALVES_8 NAME(halves)
#define HALVES_16 NAME(halves)
#define SUPPORTS(feature) 1

#elif defined(__x86_64__)

/* What is in a register stays there: the compiler would load it once more in another form. */
#define OPAQUE(value) __asm__("" : "+v"(value))
#define HALVES_8(one, other) (VECTOR) _mm256_blend_ps((__m256)one, (__m256)other, 0xf0)
#define HALVES_16(one, other) (VECTOR) _mm512_mask_blend_ps(0xff00, (__m512)one, (__m512)other)
#define SUPPORTS(feature) __builtin_cpu_supports(feature)

#else

#define OPAQUE(value) (void)0

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
#include "end.h"

#endif

static int vectors_of(int lanes, struct vectors *found) {
#if !defined(__x86_64__) || defined(ANY_PROCESSOR)
    *found = (struct vectors){winograd_4, direct_4};
    if (lanes == 4) return 1;
#endif
#if defined(__x86_64__) || defined(ANY_PROCESSOR)
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    if (lanes == 8 && SUPPORTS("avx2") && SUPPORTS("fma")) {
        *found = (struct vectors){winograd_8, direct_8};
        return 1;
    }
    if (lanes == 16 && SUPPORTS("avx512f")) {
        *found = (struct vectors){winograd_16, direct_16};
        return 1;
    }
#endif
    return 0;
}

/* Room that a thread keeps from call to call: to get it anew each time would cost as much as the sums. */
static __thread float *kept;
static __thread size_t kept_floats;

static float *room_for(size_t floats) {
    if (floats > kept_floats) {
        free(kept);
        kept = malloc(floats * sizeof(float));
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

static PyObject *winograd(PyObject *self, PyObject *arguments) {
    unsigned long long images, kernels, bias, results;
    struct vectors vectors;
    struct tiled job;
    int lanes;
    if (!PyArg_ParseTuple(arguments, "iK(liii)KKiiKi", &lanes, &images, &job.count, &job.height, &job.width,
                          &job.channels, &kernels, &bias, &job.padding, &job.block, &results, &job.made))
        return NULL;
    if (!vectors_of(lanes, &vectors) || job.channels < lanes || job.made < lanes || job.block < 1)
        return refused(lanes, job.channels, job.made);
    job.images = (const float *)images;
    job.kernels = (const float *)kernels;
    job.bias = (const float *)bias;
    job.results = (float *)results;
    size_t padded = (size_t)(job.made + lanes - 1) / lanes * lanes;
    float *room = room_for(PRODUCTS * (size_t)(job.block + SPARE) * (job.channels + padded) + job.channels);
    if (!room) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    vectors.winograd(&job, room);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *direct(PyObject *self, PyObject *arguments) {
    unsigned long long images, bias, results;
    struct vectors vectors;
    struct listed job;
    PyObject *phases;
    int lanes;
    if (!PyArg_ParseTuple(arguments, "iK(liii)(ii)O!KK(li)i", &lanes, &images, &job.count, &job.height, &job.width,
                          &job.channels, &job.left, &job.right, &PyTuple_Type, &phases, &bias, &results,
                          &job.result_step, &job.made, &job.few))
        return NULL;
    if (!vectors_of(lanes, &vectors) || job.channels < (job.few ? lanes : 1) || job.made < 1 ||
        (job.few && job.made > COLOURS))
        return refused(lanes, job.channels, job.made);
    job.images = (const float *)images;
    job.bias = (const float *)bias;
    job.results = (float *)results;
    job.most = job.channels;
    Py_ssize_t known = PyTuple_Size(phases);
    if (known > PHASES) return PyErr_Format(PyExc_ValueError, "expected at most %d phases, got %zd", PHASES, known);
    job.phases = (int)known;
    for (int p = 0; p < job.phases; p++) {
        unsigned long long kernels, sources, places;
        struct phase *phase = job.phase + p;
        if (!PyArg_ParseTuple(PyTuple_GetItem(phases, p), "KK(iii)K", &kernels, &sources, &phase->pixels, &phase->taps,
                              &phase->channels, &places))
            return NULL;
        phase->kernels = (const float *)kernels;
        phase->sources = (const int *)sources;
        phase->places = (const int *)places;
        if (phase->channels > job.most) job.most = phase->channels;
    }
    size_t wide = (size_t)job.left + job.width + job.right;
    size_t copy = job.left + job.right ? wide * job.height * job.channels : 0;
    float *room = room_for(copy + job.most + job.made + 2 * (size_t)lanes);
    if (!room) return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    vectors.direct(&job, room);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"has", has, METH_VARARGS, NULL},
    {"winograd", winograd, METH_VARARGS, NULL},
    {"direct", direct, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_compiled", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__compiled(void) { return PyModule_Create(&module); }
