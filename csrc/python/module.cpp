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
#undef TORCH_TARGET_VERSION

#include <pybind11/pybind11.h>

#include "cpu/simd.h"

#define GRADMIX_EXT_STRING(x) GRADMIX_EXT_STRING_(x)
#define GRADMIX_EXT_STRING_(x) #x

namespace {

// Read from the file, without loading it, by gradmix_ext/loader/recipe.py.
const char kMark[] = "gradmix_ext library: sources=" GRADMIX_EXT_SOURCES_HASH
                     " cuda=" GRADMIX_EXT_STRING(GRADMIX_EXT_HAS_CUDA);

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of gradmix_ext: what they were built from and run-time choices.";
  m.attr("mark") = kMark;
  m.attr("cuda_archs") = GRADMIX_EXT_CUDA_ARCHS;
  m.def("simd_level", &gradmix::cpu::simd_level,
        "The instruction set that the CPU kernels use on this machine.");
}
