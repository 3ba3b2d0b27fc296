// What the library exports, compiled once, for the oldest processor: kernels by name and instruction set, and threads.
#define HEDGEROW_ISA none
#include "kernels.h"

#include <cstring>
#include <pthread.h>

#define EXPORT extern "C" __attribute__((visibility("default")))

// HEDGEROW_VARIANTS(X) comes from build.py: X(v4) X(v3) X(base), the best first; HEDGEROW_ABI, HEDGEROW_DIGEST and
// HEDGEROW_COMPILER are strings.
#define HEDGEROW_DECLARE_TABLE(isa)                                                                                    \
    namespace hedgerow::isa {                                                                                          \
    extern const Kernel table[];                                                                                       \
    }
HEDGEROW_VARIANTS(HEDGEROW_DECLARE_TABLE)

namespace {

bool runs_here(const char *isa) {
#if defined(__x86_64__)
    // These ask for the operating system's consent too.
    if (!std::strcmp(isa, "v4"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && runs_here("v3");
    if (!std::strcmp(isa, "v3"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
               __builtin_cpu_supports("bmi2");
#endif
    return !std::strcmp(isa, "base");
}

struct Variant {
    const char *isa;
    const hedgerow::Kernel *table;
};

#define HEDGEROW_VARIANT(isa) {#isa, hedgerow::isa::table},
const Variant variants[] = {HEDGEROW_VARIANTS(HEDGEROW_VARIANT)};

#define HEDGEROW_NAME(name, arguments) #name,
const char *const names[] = {HEDGEROW_KERNELS(HEDGEROW_NAME)};

struct Job {
    int64_t next, count, grain;
    void (*body)(void *, int64_t, int64_t);
    void *context;
};

void *work(void *argument) {
    Job &job = *static_cast<Job *>(argument);
    for (;;) {
        const int64_t begin = __atomic_fetch_add(&job.next, job.grain, __ATOMIC_RELAXED);
        if (begin >= job.count)
            return nullptr;
        const int64_t end = begin + job.grain;
        job.body(job.context, begin, end < job.count ? end : job.count);
    }
}

} // namespace

namespace hedgerow {

void parallel(int threads, int64_t count, int64_t grain, void (*body)(void *, int64_t, int64_t), void *context) {
    constexpr int most = 64;
    if (threads <= 1 || count <= grain) {
        if (count > 0)
            body(context, 0, count);
        return;
    }
    Job job{0, count, grain < 1 ? 1 : grain, body, context};
    pthread_t others[most];
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    // The usual 8 MB a thread would count as data under a hard memory limit.
    pthread_attr_setstacksize(&attributes, 1 << 20);
    int started = 0;
    while (started < threads - 1 && started < most && started < (count - 1) / job.grain) {
        // Whatever a thread that cannot be started would have done, the others do.
        if (pthread_create(&others[started], &attributes, work, &job))
            break;
        ++started;
    }
    pthread_attr_destroy(&attributes);
    work(&job);
    for (int k = 0; k < started; ++k)
        pthread_join(others[k], nullptr);
}

} // namespace hedgerow

EXPORT const char *hedgerow_abi() { return HEDGEROW_ABI; }

// build.py finds the marked text in the file, without loading it.
EXPORT const char *hedgerow_digest() {
    static const char marked[] = "hedgerow-digest:" HEDGEROW_DIGEST;
    return marked + sizeof "hedgerow-digest:" - 1;
}

EXPORT const char *hedgerow_compiler() { return HEDGEROW_COMPILER; }

// The k-th instruction set, best first; null past the last one, "" where this processor lacks it.
EXPORT const char *hedgerow_isa(int k) {
    if (k < 0 || k >= int(sizeof variants / sizeof *variants))
        return nullptr;
    return runs_here(variants[k].isa) ? variants[k].isa : "";
}

// A kernel by name; null if there is none, or none for that instruction set.
EXPORT hedgerow::Kernel hedgerow_kernel(const char *isa, const char *name) {
    for (const Variant &variant : variants)
        if (!std::strcmp(variant.isa, isa))
            for (unsigned k = 0; k < sizeof names / sizeof *names; ++k)
                if (!std::strcmp(names[k], name))
                    return variant.table[k];
    return nullptr;
}
