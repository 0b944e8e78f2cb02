// The Python module of the compiled library: what it was built from, and how it will run.
//
// Tensors never pass through here: the kernels register with PyTorch's dispatcher (static
// initialisers in the bindings of csrc/cpu and csrc/cuda), and importing this module is what loads
// them. It uses neither PyTorch's C++ nor its Python API, so that one binary serves many versions.

// Nothing here is called in a loop, and optimising the templates of pybind11 is a fifth of the time
// that compiling this file takes.
#pragma GCC optimize("O1")

// The copy of pybind11 that PyTorch 2.10 to 2.12 ship refuses to be included where a target version
// is set. This file uses nothing of PyTorch, so it needs none.
constexpr unsigned long long kTorchTarget = TORCH_TARGET_VERSION;
#undef TORCH_TARGET_VERSION

#include <pybind11/pybind11.h>

#include <string>

#include "cpu/simd.h"

#if __has_include("cpu/cost_model.h")
#include "cpu/cost_model.h"
#define GRADMIX_EXT_HAS_COST_MODEL 1
#endif

#define GRADMIX_EXT_STRING(x) GRADMIX_EXT_STRING_(x)
#define GRADMIX_EXT_STRING_(x) #x

namespace py = pybind11;

namespace {

// Read from the file, without loading it, by gradmix_ext/loader/recipe.py.
const char kMark[] = "gradmix_ext library: sources=" GRADMIX_EXT_SOURCES_HASH
                     " cuda=" GRADMIX_EXT_STRING(GRADMIX_EXT_HAS_CUDA);

const char kCompiler[] =
#if defined(__clang__)
    "clang " __clang_version__;
#else
    "gcc " __VERSION__;
#endif

std::string torch_target() {
  return std::to_string(kTorchTarget >> 56) + "." + std::to_string((kTorchTarget >> 48) & 0xff);
}

py::dict build_info() {
  py::dict info;
  info["mark"] = kMark;
  info["compiler"] = kCompiler;
  info["torch_target"] = torch_target();
  info["flags"] = GRADMIX_EXT_FLAGS;
  info["has_cuda"] = GRADMIX_EXT_HAS_CUDA == 1;
  info["cuda_archs"] = GRADMIX_EXT_CUDA_ARCHS;
  info["sources_hash"] = GRADMIX_EXT_SOURCES_HASH;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of gradmix_ext: build information and run-time choices.";
  m.def("build_info", &build_info,
        "What the library was built from: compiler, flags, oldest PyTorch, sources.");
  m.def("simd_level", &gradmix::cpu::simd_level,
        "The instruction set that the CPU kernels use on this machine.");
#ifdef GRADMIX_EXT_HAS_COST_MODEL
  m.def("pairwise_cost", &gradmix::cpu::pairwise_cost, py::arg("n"), py::arg("c"), py::arg("d"),
        py::arg("k"), "Predicted cost of class_gram(algorithm='pairwise').");
  m.def("classwise_cost", &gradmix::cpu::classwise_cost, py::arg("n"), py::arg("c"), py::arg("d"),
        py::arg("k"), "Predicted cost of class_gram(algorithm='classwise').");
#endif
}
