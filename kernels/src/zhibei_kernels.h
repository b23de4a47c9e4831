// The whole interface: C, so that anything can load it.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

enum zhibei_kernels_status {
    ZHIBEI_KERNELS_OK = 0,
    ZHIBEI_KERNELS_NO_LIBRARY = 1,     // the host's library is not loaded, or has not what is needed
    ZHIBEI_KERNELS_OTHER_VERSION = 2,  // another ggml than the one this was built for
    ZHIBEI_KERNELS_NO_LEVEL = 3,       // the processor has none of the instruction sets, or not the one asked for
    ZHIBEI_KERNELS_WRONG_RESULTS = 4,  // the self-test failed
    ZHIBEI_KERNELS_TWICE = 5,          // registered before in this process
};

// Puts the kernels into the ggml inside the shared library at `library_path`, which must be loaded already. `level` is the
// name of an instruction set, or null for the best. Call it before the first model is loaded. Returns a status.
int zhibei_kernels_register(const char * library_path, const char * level);

// The level in use after a registration that succeeded, else null.
const char * zhibei_kernels_level(void);

// 1 when attention over F16, BF16 and Q8_0 caches is computed here too, else 0: ggml then does it as before.
int zhibei_kernels_attention(void);

// The version of ggml this was built for.
const char * zhibei_kernels_ggml_version(void);

#ifdef __cplusplus
}
#endif
