// What this library relies on of ggml's binary interface, in our own words: the structures it reads or hands over, the
// virtual tables it fills, and the functions it calls. The test suite compiles this beside ggml's headers and compares.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace zhibei::abi {

// The one ggml this was written against.
constexpr const char * VERSION = "0.26.0";
constexpr int BACKEND_API_VERSION = 3;

// What ggml_tensor_overhead() counts beside the tensor itself.
constexpr size_t OBJECT_BYTES = 32;

enum Type : int { TYPE_F32 = 0, TYPE_F16 = 1, TYPE_Q8_0 = 8, TYPE_I32 = 26 };
enum Operation : int { OP_NONE = 0, OP_MUL_MAT = 29, OP_MUL_MAT_ID = 30, OP_GET_ROWS = 40, OP_FLASH_ATTN_EXT = 74 };

struct Buffer;
struct BufferType;
struct Device;
struct Threadpool;
struct Context;
struct Graph;

struct Tensor {
    int type;
    Buffer * buffer;
    int64_t ne[4];
    size_t nb[4];
    int op;
    int32_t op_params[16];
    int32_t flags;
    Tensor * src[10];
    Tensor * view_src;
    size_t view_offs;
    void * data;
    char name[64];
    void * extra;
    char padding[8];
};

struct BufferTypeInterface {
    const char * (*get_name)(BufferType *);
    Buffer * (*alloc_buffer)(BufferType *, size_t size);
    Buffer * (*alloc_buffer_n)(BufferType *, Tensor **, int);
    size_t (*get_alignment)(BufferType *);
    size_t (*get_max_size)(BufferType *);
    size_t (*get_alloc_size)(BufferType *, const Tensor *);
    size_t (*get_alloc_size_n)(BufferType *, Tensor **, int);
    bool (*is_host)(BufferType *);
};

struct BufferType {
    BufferTypeInterface interface;
    Device * device;
    void * context;
};

struct BufferInterface {
    void (*free_buffer)(Buffer *);
    void * (*get_base)(Buffer *);
    int (*init_tensor)(Buffer *, Tensor *);
    void (*memset_tensor)(Buffer *, Tensor *, uint8_t value, size_t offset, size_t size);
    void (*set_tensor)(Buffer *, Tensor *, const void * data, size_t offset, size_t size);
    void (*get_tensor)(Buffer *, const Tensor *, void * data, size_t offset, size_t size);
    void (*set_tensor_2d)(Buffer *, Tensor *, const void *, size_t, size_t, size_t, size_t, size_t);
    void (*get_tensor_2d)(Buffer *, const Tensor *, void *, size_t, size_t, size_t, size_t, size_t);
    bool (*cpy_tensor)(Buffer *, const Tensor *, Tensor *);
    void (*clear)(Buffer *, uint8_t value);
    void (*reset)(Buffer *);
};

struct Buffer {
    BufferInterface interface;
    BufferType * type;
    void * context;
    size_t size;
    int usage;
};

// Only its first field is read.
struct Registry {
    int api_version;
};

struct ComputeParams {
    int ith, nth;
    size_t wsize;
    void * wdata;
    Threadpool * threadpool;
    bool use_ref;
};

struct InitParams {
    size_t mem_size;
    void * mem_buffer;
    bool no_alloc;
};

// ggml calls these two through their virtual tables: the order of the functions is what counts.
class TensorTraits {
  public:
    virtual ~TensorTraits() = default;
    virtual bool work_size(int num_threads, const Tensor * op, size_t & size) = 0;
    virtual bool compute_forward(ComputeParams * params, Tensor * op) = 0;
};

class ExtraBufferType {
  public:
    virtual ~ExtraBufferType() = default;
    virtual bool supports_op(Device * device, const Tensor * op) = 0;
    virtual TensorTraits * get_tensor_traits(const Tensor * op) = 0;
};

static_assert(sizeof(void *) == 8, "64-bit only");
static_assert(sizeof(Tensor) == 336 && offsetof(Tensor, buffer) == 8 && offsetof(Tensor, ne) == 16 && offsetof(Tensor, nb) == 48 &&
              offsetof(Tensor, op) == 80 && offsetof(Tensor, op_params) == 84 && offsetof(Tensor, flags) == 148 &&
              offsetof(Tensor, src) == 152 && offsetof(Tensor, view_src) == 232 && offsetof(Tensor, view_offs) == 240 &&
              offsetof(Tensor, data) == 248 && offsetof(Tensor, name) == 256 && offsetof(Tensor, extra) == 320);
static_assert(sizeof(BufferTypeInterface) == 64 && sizeof(BufferType) == 80);
static_assert(sizeof(BufferInterface) == 88 && sizeof(Buffer) == 120);
static_assert(offsetof(Buffer, type) == 88 && offsetof(Buffer, context) == 96 && offsetof(Buffer, size) == 104);
static_assert(sizeof(ComputeParams) == 40 && offsetof(ComputeParams, wsize) == 8 && offsetof(ComputeParams, wdata) == 16 &&
              offsetof(ComputeParams, threadpool) == 24 && offsetof(ComputeParams, use_ref) == 32);
static_assert(sizeof(InitParams) == 24 && offsetof(InitParams, mem_buffer) == 8 && offsetof(InitParams, no_alloc) == 16);

// The functions of ggml that are called, found by name in the host's library.
struct Functions {
    const char * (*version)();
    size_t (*tensor_overhead)();
    std::vector<BufferType *> & (*extra_buffer_types)();
    Registry * (*cpu_registry)();
    Device * (*registry_device)(Registry *, size_t index);
    Buffer * (*buffer_init)(BufferType *, BufferInterface, void * context, size_t size);
    bool (*is_host)(BufferType *);
    void (*barrier)(Threadpool *);
    void (*chunk_set)(Threadpool *, int value);
    int (*chunk_add)(Threadpool *, int value);
    // For the self-test.
    size_t (*quantize_chunk)(int type, const float * from, void * to, int64_t start, int64_t rows, int64_t values,
                             const float * importance);
    Context * (*init)(InitParams);
    void (*free)(Context *);
    Tensor * (*new_tensor_2d)(Context *, int type, int64_t, int64_t);
    Tensor * (*new_tensor_3d)(Context *, int type, int64_t, int64_t, int64_t);
    Tensor * (*mul_mat)(Context *, Tensor *, Tensor *);
    Tensor * (*flash_attn_ext)(Context *, Tensor * queries, Tensor * keys, Tensor * values, Tensor * mask, float scale, float max_bias,
                               float softcap);
    Graph * (*new_graph)(Context *);
    void (*build_forward_expand)(Graph *, Tensor *);
    int (*graph_compute_with_ctx)(Context *, Graph *, int num_threads);
};

// False when one of them is not there. `library` is a handle of dlopen's.
bool find_functions(void * library, Functions & functions);

}  // namespace zhibei::abi
