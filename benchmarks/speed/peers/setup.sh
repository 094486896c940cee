#!/usr/bin/env bash
# benchmarks/speed/peers/setup.sh FOLDER: the engines that the benchmarks run beside baltoro, from PyPI.
#
# llama.cpp is compiled out of the source in llama-cpp-python's package, which takes a quarter of an
# hour on two idle cores; ik_llama.cpp and kt-kernel come ready. Then: export BALTORO_PEERS=FOLDER
# What is there already is kept; JOBS says how many compilers run at once.
set -euo pipefail
mkdir -p "$1" && cd "$1"
PIP="venv/bin/pip --disable-pip-version-check -q"

[ -d venv ] || python3 -m venv venv
$PIP install scikit-build-core cmake ninja numpy gguf typing-extensions diskcache jinja2
$PIP install --no-deps ik-llama-cpp-python
# Without the torch that it names; it runs with the one that baltoro[dev] has, as mlx and torch do.
[ -d kt ] || $PIP install --no-deps --target kt kt-kernel

if [ ! -d source ]; then
    $PIP download --no-deps --no-binary llama-cpp-python --no-build-isolation -d sdist llama-cpp-python
    mkdir source.partial
    tar xzf sdist/llama_cpp_python-*.tar.gz -C source.partial --strip-components=1
    mv source.partial source
fi
cp -r source/llama_cpp venv/lib/python3*/site-packages/

# Of this processor's own instructions, with what the engine needs and nothing that is downloaded.
PATH="$PWD/venv/bin:$PATH"
cmake -S source/vendor/llama.cpp -B llama -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
    -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
    -DLLAMA_BUILD_WEBUI=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DBUILD_SHARED_LIBS=ON
for target in ggml-cpu llama llama-bench llama-server; do
    cmake --build llama --target "$target" --parallel "${JOBS:-$(nproc)}"
done
echo "export BALTORO_PEERS=$PWD"
