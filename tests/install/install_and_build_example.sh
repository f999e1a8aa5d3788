#!/usr/bin/env bash
# install_and_build_example.sh BUILD SOURCE SCRATCH: installs BUILD under SCRATCH and builds and runs a copy of the
# example custom_model against it, with nothing of the source tree at hand.
set -euo pipefail
build="$1" source="$2" scratch="$3"
rm -rf "$scratch"
mkdir -p "$scratch"

cmake --install "$build" --prefix "$scratch/prefix" >"$scratch/install.log"
cp -r "$source/examples/custom_model" "$scratch/example"
cmake -S "$scratch/example" -B "$scratch/build" -G Ninja -DCMAKE_PREFIX_PATH="$scratch/prefix"
cmake --build "$scratch/build"
if grep -q "$source" "$scratch"/prefix/lib*/cmake/trireme/*.cmake; then
  echo "the installed CMake package names the source tree" >&2
  exit 1
fi
"$scratch/build/custom_model"

"$scratch/prefix/bin/trireme" --help >"$scratch/help.txt"
grep -q train "$scratch/help.txt"
