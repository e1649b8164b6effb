#!/bin/sh
# The compiler as cargo calls it for the checkout's own crates. The flags of all crates ask for shared libraries, as kernels need
# them; a program of the checkout contains what it uses, so that it may be taken elsewhere, and exports what libtorch asks of it
# (stemm/src/mkl.rs).
asked=mkl_serv_intel_cpu_true
exec "$@" -C prefer-dynamic=no -C link-arg=-Wl,-u,$asked,--export-dynamic-symbol=$asked
