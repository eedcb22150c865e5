#include "softgpu_cuda.h"
