#!/bin/sh
# The compiler as cargo calls it for the checkout's own crates. The flags of all crates ask for shared libraries, as kernels need
# them; a program of the checkout contains what it uses, so that it may be taken elsewhere.
exec "$@" -C prefer-dynamic=no
