#include "kernels/common/cudnn_plan.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <span>

namespace kd::cudnn {
namespace {

std::string explain(cudnnStatus_t status) {
  char text[4096] = "";
  cudnnGetLastErrorString(text, sizeof text);
  return fmt::format("{}{}{}", cudnnGetErrorString(status), *text ? ": " : "", text);
}

cudnnDataType_t data_type(DType type) {
  switch (type) {
    case DType::f32: return CUDNN_DATA_FLOAT;
    case DType::bf16: return CUDNN_DATA_BFLOAT16;
    default: KD_FAIL("cuDNN convolution with dtype {}", to_string(type));
  }
}

void set_int(Descriptor& d, cudnnBackendAttributeName_t name, int64_t value) { d.set(name, CUDNN_TYPE_INT64, 1, &value); }
void set_ints(Descriptor& d, cudnnBackendAttributeName_t name, std::span<const int64_t> values) {
  d.set(name, CUDNN_TYPE_INT64, int64_t(values.size()), values.data());
}
void set_type(Descriptor& d, cudnnBackendAttributeName_t name, cudnnDataType_t type) { d.set(name, CUDNN_TYPE_DATA_TYPE, 1, &type); }
void set_float(Descriptor& d, cudnnBackendAttributeName_t name, float value) { d.set(name, CUDNN_TYPE_FLOAT, 1, &value); }

// Names of the tensors of a graph in a variant pack.
enum Uid : int64_t { kX = 1, kW, kY, kZ, kBias, kVirtual };

enum class Memory { real, none };  // none: an intermediate that stays in registers

Descriptor tensor(int64_t uid, const std::array<int64_t, 4>& dims, DType type, Memory memory = Memory::real) {
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const int64_t c = dims[1], h = dims[2], w = dims[3];
  const bool is_virtual = memory == Memory::none;
  set_int(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, uid);
  set_type(d, CUDNN_ATTR_TENSOR_DATA_TYPE, data_type(type));
  set_ints(d, CUDNN_ATTR_TENSOR_DIMENSIONS, dims);
  set_ints(d, CUDNN_ATTR_TENSOR_STRIDES, std::array<int64_t, 4>{h * w * c, 1, w * c, c});
  set_int(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, kAlignmentBytes);
  d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
  d.finalize();
  return d;
}

Descriptor convolution(int64_t stride, int64_t pad) {
  Descriptor d(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const auto mode = CUDNN_CROSS_CORRELATION;
  set_type(d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  d.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
  set_int(d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 2);
  set_ints(d, CUDNN_ATTR_CONVOLUTION_DILATIONS, std::array<int64_t, 2>{1, 1});
  set_ints(d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, std::array{stride, stride});
  set_ints(d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, std::array{pad, pad});
  set_ints(d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, std::array{pad, pad});
  d.finalize();
  return d;
}

struct ConvAttributes {
  cudnnBackendDescriptorType_t kind;
  cudnnBackendAttributeName_t alpha, beta, conv, x, w, y;
};
const ConvAttributes& attributes(ConvOp op) {
  static const ConvAttributes all[] = {
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY},
      {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY}};
  return all[size_t(op)];
}

Descriptor pointwise(cudnnPointwiseMode_t mode, const Descriptor& x, const Descriptor* b, const Descriptor& y) {
  Descriptor kind(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  kind.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  set_type(kind, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
  kind.finalize();
  Descriptor d(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind);
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
  if (b) d.set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b);
  d.set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
  d.finalize();
  return d;
}

Descriptor make_graph(const ConvGraphSpec& spec) {
  KD_CHECK(spec.op == ConvOp::fprop ? !spec.accumulate : !(spec.z || spec.bias || spec.relu), "conv {}: an epilogue of another direction", to_string(spec.op));
  // The last result of the chain is y; every one before it lives in registers, in f32.
  int steps = int(spec.z) + int(spec.bias) + int(spec.relu);
  int64_t next_uid = kVirtual;
  auto result = [&] { return steps-- == 0 ? tensor(kY, spec.y, spec.type) : tensor(next_uid++, spec.y, DType::f32, Memory::none); };

  const ConvAttributes& names = attributes(spec.op);
  Descriptor conv(names.kind), last = result();
  conv.set(names.x, tensor(kX, spec.x, spec.type));
  conv.set(names.w, tensor(kW, spec.w, spec.type));
  conv.set(names.y, last);
  conv.set(names.conv, convolution(spec.stride, spec.pad));
  set_float(conv, names.alpha, 1.f);
  set_float(conv, names.beta, spec.accumulate ? 1.f : 0.f);
  conv.finalize();

  std::vector<Descriptor> ops;
  ops.push_back(std::move(conv));
  auto append = [&](cudnnPointwiseMode_t mode, const Descriptor* operand) {
    Descriptor y = result();
    ops.push_back(pointwise(mode, last, operand, y));
    last = std::move(y);
  };
  if (spec.z) {
    const Descriptor z = tensor(kZ, spec.y, spec.type);
    append(CUDNN_POINTWISE_ADD, &z);
  }
  if (spec.bias) {
    const Descriptor bias = tensor(kBias, {1, spec.y[1], 1, 1}, spec.type);
    append(CUDNN_POINTWISE_ADD, &bias);
  }
  if (spec.relu) append(CUDNN_POINTWISE_RELU_FWD, nullptr);

  std::vector<cudnnBackendDescriptor_t> raw;
  for (const Descriptor& op : ops) raw.push_back(op.raw());
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, int64_t(raw.size()), raw.data());
  graph.finalize();
  return graph;
}

// The descriptors in an attribute that is an array of up to `capacity`: cuDNN fills descriptors made by the caller.
std::vector<Descriptor> descriptors_in(const Descriptor& from, cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t kind, int64_t capacity) {
  std::vector<Descriptor> all;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (int64_t i = 0; i < capacity; ++i) raw.push_back(all.emplace_back(kind).raw());
  const int64_t filled = from.get(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, capacity, raw.data());
  all.erase(all.begin() + std::min(filled, capacity), all.end());
  return all;
}

EngineChoice choice_of(const Descriptor& config) {
  EngineChoice choice;
  const auto engine = descriptors_in(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1);
  KD_CHECK(engine.size() == 1, "cuDNN: an engine configuration with {} engines", engine.size());
  engine[0].get(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &choice.engine);
  for (const Descriptor& knob : descriptors_in(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, CUDNN_KNOB_TYPE_COUNTS)) {
    cudnnBackendKnobType_t type{};
    int64_t value = 0;
    knob.get(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type);
    knob.get(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &value);
    choice.knobs.emplace_back(int(type), value);
  }
  return choice;
}

// Index = cudnnBackendKnobType_t. As text, because the header marks some of the constants deprecated while its own heuristics still return them.
constexpr std::string_view kKnobNames[] = {
    "SPLIT_K",          "SWIZZLE",     "TILE_SIZE",     "USE_TEX",    "EDGE",        "KBLOCK",       "LDGA",      "LDGB",
    "CHUNK_K",          "SPLIT_H",     "WINO_TILE",     "MULTIPLY",   "SPLIT_K_BUF", "TILEK",        "STAGES",    "REDUCTION_MODE",
    "CTA_SPLIT_K_MODE", "SPLIT_K_SLC", "IDX_MODE",      "SLICED",     "SPLIT_RS",    "SINGLEBUFFER", "LDGC",      "SPECFILT",
    "KERNEL_CFG",       "WORKSPACE",   "TILE_CGA",      "TILE_CGA_M", "TILE_CGA_N",  "BLOCK_SIZE",   "OCCUPANCY", "ARRAY_SIZE_PER_THREAD",
    "NUM_C_PER_BLOCK",  "SPLIT_COLS",  "TILE_ROWS",     "TILE_COLS",  "LOAD_SIZE",   "CTA_COUNT",    "STREAM_K",  "SPLIT_P_SLC",
    "TILE_M",           "TILE_N",      "WARP_SPEC_CFG", "SWAP_AB"};
static_assert(std::size(kKnobNames) > CUDNN_KNOB_TYPE_TILE_CGA_N && kKnobNames[CUDNN_KNOB_TYPE_TILE_CGA_N] == "TILE_CGA_N" &&
              kKnobNames[CUDNN_KNOB_TYPE_WORKSPACE] == "WORKSPACE" && kKnobNames[CUDNN_KNOB_TYPE_STAGES] == "STAGES");

std::string knob_name(int type) {  // a knob newer than this table keeps its number
  return type >= 0 && size_t(type) < std::size(kKnobNames) ? std::string(kKnobNames[size_t(type)]) : fmt::format("KNOB{}", type);
}

int64_t parse_int(std::string_view text, const char* what) {
  int64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  KD_INPUT(error == std::errc() && end == text.data() + text.size(), "{} '{}' is not a number", what, text);
  return value;
}

std::string json_of(const Descriptor& descriptor, cudnnBackendAttributeName_t name) {
  std::string text(size_t(descriptor.get(name, CUDNN_TYPE_CHAR, 0, nullptr)), '\0');
  text.resize(size_t(descriptor.get(name, CUDNN_TYPE_CHAR, int64_t(text.size()), text.data())));
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

}  // namespace

void check(cudnnStatus_t status, const char* call, const char* file, int line) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  fail_contract(file, line, fmt::format("{}: {}", call, explain(status)));
}

Descriptor::Descriptor(cudnnBackendDescriptorType_t type) { KD_CUDNN(cudnnBackendCreateDescriptor(type, &raw_)); }
Descriptor::~Descriptor() {
  if (raw_) cudnnBackendDestroyDescriptor(raw_);
}
void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  KD_CUDNN(try_set(name, type, count, values));
}
cudnnStatus_t Descriptor::try_set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count, const void* values) {
  return cudnnBackendSetAttribute(raw_, name, type, count, values);
}
void Descriptor::set(cudnnBackendAttributeName_t name, const Descriptor& value) {
  auto raw = value.raw();
  set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &raw);
}
void Descriptor::finalize() { KD_CUDNN(cudnnBackendFinalize(raw_)); }
cudnnStatus_t Descriptor::try_finalize() { return cudnnBackendFinalize(raw_); }
int64_t Descriptor::get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t capacity, void* values) const {
  int64_t count = 0;
  KD_CUDNN(cudnnBackendGetAttribute(raw_, name, type, capacity, &count, values));
  return count;
}

DeviceDescription::DeviceDescription(Descriptor descriptor) : descriptor_(std::move(descriptor)) {
  descriptor_.finalize();
  json_ = json_of(descriptor_, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION);
  const auto parsed = nlohmann::json::parse(json_, nullptr, false);
  KD_CHECK(parsed.is_object() && parsed.contains("deviceName") && parsed.contains("deviceVer"), "cuDNN describes the device as '{}': no name or version there",
           json_);
  name_ = parsed["deviceName"].get<std::string>();
  class_ = fmt::format("sm{}", parsed["deviceVer"].get<int>() / 10);  // 900 is compute capability 9.0
}

DeviceDescription DeviceDescription::of_gpu(int device) {
  Descriptor d(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  d.set(CUDNN_ATTR_DEVICEPROP_DEVICE_ID, CUDNN_TYPE_INT32, 1, &device);
  return DeviceDescription(std::move(d));
}

DeviceDescription DeviceDescription::from_json(std::string_view json) {
  Descriptor d(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  d.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, int64_t(json.size()), json.data());
  return DeviceDescription(std::move(d));
}

std::string to_string(ConvOp op) { return op == ConvOp::fprop ? "fprop" : op == ConvOp::dgrad ? "dgrad" : "wgrad"; }

bool EngineChoice::hopper() const {
  return std::any_of(knobs.begin(), knobs.end(), [](auto& knob) { return knob.first == CUDNN_KNOB_TYPE_TILE_CGA_M; });
}

std::string knobs_text(const EngineChoice& choice) {
  std::string text;
  for (auto [type, value] : choice.knobs) text += fmt::format("{}{}:{}", text.empty() ? "" : ",", knob_name(type), value);
  return text.empty() ? "-" : text;
}

std::string to_string(const EngineChoice& choice) { return fmt::format("{} {}", choice.engine, knobs_text(choice)); }

EngineChoice parse_choice(std::string_view engine, std::string_view knobs) {
  EngineChoice choice{.engine = parse_int(engine, "engine"), .knobs = {}};
  while (knobs != "-" && !knobs.empty()) {
    const std::string_view knob = knobs.substr(0, knobs.find(','));
    knobs.remove_prefix(std::min(knobs.size(), knob.size() + 1));
    const size_t colon = knob.find(':');
    KD_INPUT(colon != knob.npos, "knob '{}' is not NAME:VALUE", knob);
    const std::string_view name = knob.substr(0, colon);
    const auto* known = std::find(std::begin(kKnobNames), std::end(kKnobNames), name);
    const int type = known != std::end(kKnobNames) ? int(known - kKnobNames) : name.starts_with("KNOB") ? int(parse_int(name.substr(4), "knob")) : -1;
    KD_INPUT(type >= 0, "unknown knob '{}'", name);
    choice.knobs.emplace_back(type, parse_int(knob.substr(colon + 1), "knob value"));
  }
  return choice;
}

Plan::Plan(Descriptor plan, EngineChoice choice, int64_t workspace_bytes)
    : plan_(std::move(plan)), choice_(std::move(choice)), workspace_bytes_(workspace_bytes) {}

void Plan::execute(cudnnHandle_t handle, const ConvPointers& p, void* workspace) const {
  int64_t uids[5];
  const void* pointers[5];
  int64_t count = 0;
  for (auto [uid, pointer] : {std::pair{kX, p.x}, {kW, p.w}, {kY, p.y}, {kZ, p.z}, {kBias, p.bias}})
    if (pointer) {
      uids[count] = uid;
      pointers[count++] = pointer;
    }
  Descriptor pack(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, uids);
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, pointers);
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  pack.finalize();
  KD_CUDNN(cudnnBackendExecute(handle, plan_.raw(), pack.raw()));
}

ConvGraph::ConvGraph(const ConvGraphSpec& spec, const DeviceDescription& device) : spec_(spec), device_(device), graph_(make_graph(spec)) {}

std::vector<EngineChoice> ConvGraph::proposals(Heuristic heuristic) const {
  const auto mode = heuristic == Heuristic::a ? CUDNN_HEUR_MODE_A : heuristic == Heuristic::b ? CUDNN_HEUR_MODE_B : CUDNN_HEUR_MODE_FALLBACK;
  Descriptor heuristics(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph_);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device_.descriptor());
  if (heuristics.try_finalize() != CUDNN_STATUS_SUCCESS) return {};
  const int64_t count = heuristics.get(CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, nullptr);
  std::vector<EngineChoice> all;
  for (const Descriptor& config : descriptors_in(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, count))
    all.push_back(choice_of(config));
  return all;
}

std::optional<Plan> ConvGraph::build(const EngineChoice& choice, int64_t workspace_cap_bytes, std::string* why_not) const {
  auto refuse = [&](std::string why) {
    if (why_not) *why_not = std::move(why);
    return std::nullopt;
  };
  auto refused_by_cudnn = [&](const char* what, cudnnStatus_t status) { return refuse(why_not ? fmt::format("{}: {}", what, explain(status)) : ""); };

  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  engine.set(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph_);
  engine.set(CUDNN_ATTR_ENGINE_DEVICEPROP, device_.descriptor());
  auto status = engine.try_set(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &choice.engine);
  if (status == CUDNN_STATUS_SUCCESS) status = engine.try_finalize();
  if (status != CUDNN_STATUS_SUCCESS) return refused_by_cudnn("engine", status);

  cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
  const int64_t count = engine.get(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, std::size(notes), notes);
  auto noted = [&](cudnnBackendNumericalNote_t note) { return std::find(notes, notes + count, note) != notes + count; };
  if (noted(CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC)) return refuse("not deterministic");
  if (spec_.type == DType::f32)
    for (auto [note, what] : {std::pair{CUDNN_NUMERICAL_NOTE_TENSOR_CORE, "tensor cores (TF32)"},
                              {CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS, "inputs rounded to a narrower type"},
                              {CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION, "sums in a narrower type"},
                              {CUDNN_NUMERICAL_NOTE_FFT, "FFT"},
                              {CUDNN_NUMERICAL_NOTE_WINOGRAD, "Winograd"}})
      if (noted(note)) return refuse(fmt::format("not exact in f32: {}", what));

  std::vector<Descriptor> knobs;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (auto [type, value] : choice.knobs) {
    const auto knob_type = cudnnBackendKnobType_t(type);
    Descriptor& knob = knobs.emplace_back(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    status = knob.try_set(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &knob_type);
    if (status == CUDNN_STATUS_SUCCESS) status = knob.try_set(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &value);
    if (status == CUDNN_STATUS_SUCCESS) status = knob.try_finalize();
    if (status != CUDNN_STATUS_SUCCESS) return refused_by_cudnn("knob", status);
    raw.push_back(knob.raw());
  }
  Descriptor config(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
  config.set(CUDNN_ATTR_ENGINECFG_ENGINE, engine);
  if (!raw.empty()) status = config.try_set(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, int64_t(raw.size()), raw.data());
  if (status == CUDNN_STATUS_SUCCESS) status = config.try_finalize();
  if (status != CUDNN_STATUS_SUCCESS) return refused_by_cudnn("engine configuration", status);

  Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device_.descriptor());
  status = plan.try_finalize();
  if (status != CUDNN_STATUS_SUCCESS) return refused_by_cudnn("plan", status);
  int64_t bytes = 0;
  plan.get(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &bytes);
  if (bytes > workspace_cap_bytes)
    return refuse(fmt::format("wants {:.1f} MB of workspace, the cap is {:.1f}", double(bytes) / 1e6, double(workspace_cap_bytes) / 1e6));
  return Plan(std::move(plan), choice, bytes);
}

}  // namespace kd::cudnn
