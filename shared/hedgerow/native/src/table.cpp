// The table of one variant. It is constant, so that loading the library runs no code of a variant.
#include "kernels.h"

namespace hedgerow::HEDGEROW_ISA {

#define HEDGEROW_ENTRY(name, arguments) reinterpret_cast<Kernel>(&name),
const Kernel table[] = {HEDGEROW_KERNELS(HEDGEROW_ENTRY)};

} // namespace hedgerow::HEDGEROW_ISA
