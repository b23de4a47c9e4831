#include <dlfcn.h>

#include <atomic>
#include <cstring>

#include "buffer_type.h"
#include "levels.h"
#include "self_test.h"
#include "zhibei_kernels.h"

using namespace zhibei;

namespace {

std::atomic<bool> begun{false};
std::atomic<const Level *> in_use{nullptr};
std::atomic<bool> attention_in_use{false};

bool is_known_ggml(const abi::Functions & ggml) {
    return std::strcmp(ggml.version(), abi::VERSION) == 0 && ggml.tensor_overhead() == abi::OBJECT_BYTES + sizeof(abi::Tensor) &&
           ggml.cpu_registry()->api_version == abi::BACKEND_API_VERSION;
}

int register_kernels(const char * library_path, const char * level_name) {
    // Only a library that is there already: a second copy of ggml would be registered with, and never used.
    void * library = dlopen(library_path, RTLD_NOW | RTLD_NOLOAD);
    abi::Functions ggml;
    if (library == nullptr || !abi::find_functions(library, ggml)) return ZHIBEI_KERNELS_NO_LIBRARY;
    if (!is_known_ggml(ggml)) return ZHIBEI_KERNELS_OTHER_VERSION;
    const Level * level = choose_level(level_name);
    if (level == nullptr) return ZHIBEI_KERNELS_NO_LEVEL;
    if (!passes_self_test(ggml, *level)) return ZHIBEI_KERNELS_WRONG_RESULTS;
    // Products are worth having without attention; ggml then does it itself.
    attention_in_use = attention_passes_self_test(ggml, *level);
    install_buffer_type(ggml, *level, attention_in_use);
    in_use = level;
    return ZHIBEI_KERNELS_OK;
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED int zhibei_kernels_register(const char * library_path, const char * level) {
    if (begun.exchange(true)) return ZHIBEI_KERNELS_TWICE;
    const int status = register_kernels(library_path, level);
    if (status != ZHIBEI_KERNELS_OK) begun = false;
    return status;
}

EXPORTED const char * zhibei_kernels_level(void) {
    const Level * level = in_use;
    return level == nullptr ? nullptr : level->name;
}

EXPORTED int zhibei_kernels_attention(void) { return attention_in_use ? 1 : 0; }

EXPORTED const char * zhibei_kernels_ggml_version(void) { return abi::VERSION; }
