// Our declarations beside ggml's own headers: compiled by a test, which fails when this does not compile or exits with 1.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "ggml.h"
#include "ggml-backend.h"
#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-cpu/traits.h"
#include "ggml-impl.h"

#include "ggml_abi.h"

namespace abi = zhibei::abi;

#define SAME_SIZE(theirs, ours) static_assert(sizeof(theirs) == sizeof(ours), #theirs)
#define SAME_PLACE(theirs, their_field, ours, our_field)                                                    \
    static_assert(offsetof(theirs, their_field) == offsetof(ours, our_field), #theirs "." #their_field);    \
    static_assert(sizeof(theirs::their_field) == sizeof(ours::our_field), #theirs "." #their_field)
#define SAME_NAMED(theirs, ours, field) SAME_PLACE(theirs, field, ours, field)

SAME_SIZE(ggml_tensor, abi::Tensor);
SAME_NAMED(ggml_tensor, abi::Tensor, type);
SAME_NAMED(ggml_tensor, abi::Tensor, buffer);
SAME_NAMED(ggml_tensor, abi::Tensor, ne);
SAME_NAMED(ggml_tensor, abi::Tensor, nb);
SAME_NAMED(ggml_tensor, abi::Tensor, op);
SAME_NAMED(ggml_tensor, abi::Tensor, op_params);
SAME_NAMED(ggml_tensor, abi::Tensor, flags);
SAME_NAMED(ggml_tensor, abi::Tensor, src);
SAME_NAMED(ggml_tensor, abi::Tensor, view_src);
SAME_NAMED(ggml_tensor, abi::Tensor, view_offs);
SAME_NAMED(ggml_tensor, abi::Tensor, data);
SAME_NAMED(ggml_tensor, abi::Tensor, name);
SAME_NAMED(ggml_tensor, abi::Tensor, extra);
SAME_NAMED(ggml_tensor, abi::Tensor, padding);

SAME_SIZE(ggml_backend_buffer_type_i, abi::BufferTypeInterface);
SAME_NAMED(ggml_backend_buffer_type_i, abi::BufferTypeInterface, get_name);
SAME_NAMED(ggml_backend_buffer_type_i, abi::BufferTypeInterface, alloc_buffer);
SAME_NAMED(ggml_backend_buffer_type_i, abi::BufferTypeInterface, alloc_buffer_n);
SAME_NAMED(ggml_backend_buffer_type_i, abi::BufferTypeInterface, get_alignment);
SAME_NAMED(ggml_backend_buffer_type_i, abi::BufferTypeInterface, get_max_size);
SAME_NAMED(ggml_backend_buffer_type_i, abi::BufferTypeInterface, get_alloc_size);
SAME_NAMED(ggml_backend_buffer_type_i, abi::BufferTypeInterface, get_alloc_size_n);
SAME_NAMED(ggml_backend_buffer_type_i, abi::BufferTypeInterface, is_host);
SAME_SIZE(ggml_backend_buffer_type, abi::BufferType);
SAME_PLACE(ggml_backend_buffer_type, iface, abi::BufferType, interface);
SAME_NAMED(ggml_backend_buffer_type, abi::BufferType, device);
SAME_NAMED(ggml_backend_buffer_type, abi::BufferType, context);

SAME_SIZE(ggml_backend_buffer_i, abi::BufferInterface);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, free_buffer);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, get_base);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, init_tensor);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, memset_tensor);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, set_tensor);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, get_tensor);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, set_tensor_2d);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, get_tensor_2d);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, cpy_tensor);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, clear);
SAME_NAMED(ggml_backend_buffer_i, abi::BufferInterface, reset);
SAME_SIZE(ggml_backend_buffer, abi::Buffer);
SAME_PLACE(ggml_backend_buffer, iface, abi::Buffer, interface);
SAME_PLACE(ggml_backend_buffer, buft, abi::Buffer, type);
SAME_NAMED(ggml_backend_buffer, abi::Buffer, context);
SAME_NAMED(ggml_backend_buffer, abi::Buffer, size);
SAME_NAMED(ggml_backend_buffer, abi::Buffer, usage);

SAME_NAMED(ggml_backend_reg, abi::Registry, api_version);

SAME_SIZE(ggml_compute_params, abi::ComputeParams);
SAME_NAMED(ggml_compute_params, abi::ComputeParams, ith);
SAME_NAMED(ggml_compute_params, abi::ComputeParams, nth);
SAME_NAMED(ggml_compute_params, abi::ComputeParams, wsize);
SAME_NAMED(ggml_compute_params, abi::ComputeParams, wdata);
SAME_NAMED(ggml_compute_params, abi::ComputeParams, threadpool);
SAME_NAMED(ggml_compute_params, abi::ComputeParams, use_ref);

SAME_SIZE(ggml_init_params, abi::InitParams);
SAME_NAMED(ggml_init_params, abi::InitParams, mem_size);
SAME_NAMED(ggml_init_params, abi::InitParams, mem_buffer);
SAME_NAMED(ggml_init_params, abi::InitParams, no_alloc);

static_assert(GGML_BACKEND_API_VERSION == abi::BACKEND_API_VERSION);
static_assert(GGML_TYPE_F32 == abi::TYPE_F32 && GGML_TYPE_I32 == abi::TYPE_I32 && GGML_TYPE_F16 == abi::TYPE_F16 &&
              GGML_TYPE_Q8_0 == abi::TYPE_Q8_0);
static_assert(GGML_OP_NONE == abi::OP_NONE && GGML_OP_MUL_MAT == abi::OP_MUL_MAT && GGML_OP_MUL_MAT_ID == abi::OP_MUL_MAT_ID &&
              GGML_OP_GET_ROWS == abi::OP_GET_ROWS && GGML_OP_FLASH_ATTN_EXT == abi::OP_FLASH_ATTN_EXT);
static_assert(sizeof(ggml_type) == 4 && sizeof(ggml_op) == 4 && sizeof(ggml_status) == 4);

// That every function has the signature we call it with, but for the names of the structures.
template <class Theirs, class Ours> constexpr bool same_shape = false;
template <class R1, class... A1, class R2, class... A2>
constexpr bool same_shape<R1 (*)(A1...), R2 (*)(A2...)> =
    (std::is_void_v<R1> ? std::is_void_v<R2> : sizeof(std::conditional_t<std::is_void_v<R1>, char, R1>) ==
                                                     sizeof(std::conditional_t<std::is_void_v<R2>, char, R2>)) &&
    sizeof...(A1) == sizeof...(A2) && ((sizeof(A1) == sizeof(A2)) && ...);
#define SAME_FUNCTION(theirs, ours) static_assert(same_shape<decltype(&theirs), decltype(abi::Functions::ours)>, #theirs)
SAME_FUNCTION(ggml_version, version);
SAME_FUNCTION(ggml_tensor_overhead, tensor_overhead);
SAME_FUNCTION(ggml_backend_cpu_reg, cpu_registry);
SAME_FUNCTION(ggml_backend_reg_dev_get, registry_device);
SAME_FUNCTION(ggml_backend_buffer_init, buffer_init);
SAME_FUNCTION(ggml_backend_buft_is_host, is_host);
SAME_FUNCTION(ggml_barrier, barrier);
SAME_FUNCTION(ggml_threadpool_chunk_set, chunk_set);
SAME_FUNCTION(ggml_threadpool_chunk_add, chunk_add);
SAME_FUNCTION(ggml_quantize_chunk, quantize_chunk);
SAME_FUNCTION(ggml_init, init);
SAME_FUNCTION(ggml_free, free);
SAME_FUNCTION(ggml_new_tensor_2d, new_tensor_2d);
SAME_FUNCTION(ggml_new_tensor_3d, new_tensor_3d);
SAME_FUNCTION(ggml_mul_mat, mul_mat);
SAME_FUNCTION(ggml_flash_attn_ext, flash_attn_ext);
SAME_FUNCTION(ggml_new_graph, new_graph);
SAME_FUNCTION(ggml_build_forward_expand, build_forward_expand);
SAME_FUNCTION(ggml_graph_compute_with_ctx, graph_compute_with_ctx);

// In ggml's library; what the compiler makes of the headers names them.
extern "C" void ggml_abort(const char *, int, const char *, ...) { std::abort(); }
ggml::cpu::tensor_traits::~tensor_traits() = default;
ggml::cpu::extra_buffer_type::~extra_buffer_type() = default;

// A pointer to a virtual function holds its place in the table (Itanium C++ ABI).
template <class Function> long slot_of(Function function) {
    long words[2];
    static_assert(sizeof(function) == sizeof(words));
    std::memcpy(words, &function, sizeof(words));
    return words[0];
}

#define SAME_SLOT(theirs, ours)                                    \
    if (slot_of(&theirs) != slot_of(&ours)) {                      \
        std::printf("another place in the table: %s\n", #theirs);  \
        return 1;                                                  \
    }

int main() {
    SAME_SLOT(ggml::cpu::tensor_traits::work_size, abi::TensorTraits::work_size);
    SAME_SLOT(ggml::cpu::tensor_traits::compute_forward, abi::TensorTraits::compute_forward);
    SAME_SLOT(ggml::cpu::extra_buffer_type::supports_op, abi::ExtraBufferType::supports_op);
    SAME_SLOT(ggml::cpu::extra_buffer_type::get_tensor_traits, abi::ExtraBufferType::get_tensor_traits);
    static_assert(sizeof(ggml::cpu::tensor_traits) == sizeof(abi::TensorTraits));
    static_assert(sizeof(ggml::cpu::extra_buffer_type) == sizeof(abi::ExtraBufferType));
    // Slots two and three: the two destructors come first, here and there.
    return slot_of(&abi::TensorTraits::work_size) == 1 + 2 * static_cast<long>(sizeof(void *)) ? 0 : 1;
}
