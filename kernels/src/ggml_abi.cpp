#include "ggml_abi.h"

#include <dlfcn.h>

namespace zhibei::abi {

namespace {
template <class F> bool find(void * library, const char * name, F & function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    return function != nullptr;
}
}  // namespace

bool find_functions(void * library, Functions & f) {
    return find(library, "ggml_version", f.version) && find(library, "ggml_tensor_overhead", f.tensor_overhead) &&
           find(library, "_Z39ggml_backend_cpu_get_extra_buffer_typesv", f.extra_buffer_types) &&
           find(library, "ggml_backend_cpu_reg", f.cpu_registry) &&
           find(library, "ggml_backend_reg_dev_get", f.registry_device) &&
           find(library, "ggml_backend_buffer_init", f.buffer_init) &&
           find(library, "ggml_backend_buft_is_host", f.is_host) && find(library, "ggml_barrier", f.barrier) &&
           find(library, "ggml_threadpool_chunk_set", f.chunk_set) &&
           find(library, "ggml_threadpool_chunk_add", f.chunk_add) &&
           find(library, "ggml_quantize_chunk", f.quantize_chunk) && find(library, "ggml_init", f.init) &&
           find(library, "ggml_free", f.free) && find(library, "ggml_new_tensor_2d", f.new_tensor_2d) &&
           find(library, "ggml_new_tensor_3d", f.new_tensor_3d) &&
           find(library, "ggml_mul_mat", f.mul_mat) && find(library, "ggml_flash_attn_ext", f.flash_attn_ext) &&
           find(library, "ggml_new_graph", f.new_graph) &&
           find(library, "ggml_build_forward_expand", f.build_forward_expand) &&
           find(library, "ggml_graph_compute_with_ctx", f.graph_compute_with_ctx);
}

}  // namespace zhibei::abi
