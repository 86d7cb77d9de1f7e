#!/usr/bin/env bash
# Fetches llama.cpp into a folder of its own, for tests/drafters/test_llama_cpp.py: llama_cpp.sh FOLDER. Its converter comes in
# the sources that llama-cpp-python packs, its server built for CPUs in xllamacpp; neither goes into Specyard's environment.
set -euo pipefail
folder=${1:?llama_cpp.sh FOLDER}
python=${PYTHON:-python3}
mkdir -p "$folder"
"$python" -m pip download --quiet --no-deps --no-binary :all: --dest "$folder/sources" llama-cpp-python==0.3.36
tar -xzf "$folder"/sources/llama_cpp_python-*.tar.gz -C "$folder" --strip-components 2 --wildcards '*/vendor/llama.cpp/conversion' \
    '*/vendor/llama.cpp/gguf-py' '*/vendor/llama.cpp/convert_hf_to_gguf.py'
rm -r "$folder/sources"
"$python" -m pip install --quiet --no-deps --target "$folder/python" xllamacpp==2026.10.11549
"$python" -m pip install --quiet --no-deps --target "$folder/python" sentencepiece
