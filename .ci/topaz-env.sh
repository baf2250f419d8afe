#!/usr/bin/env bash
# Makes a virtual environment with Topaz, apart from the engine's: .ci/topaz-env.sh FOLDER
# Topaz 0.2.5 bounds none of its requirements; these are of NumPy 1's time. It also asks for torchvision, which its
# commands do without (--no-deps). torch by version and first, and --no-compile: see .ci/cryodrgn-env.sh.
set -eu
folder=$1
[ -x "$folder/bin/topaz" ] && exit 0
python3 -m venv "$folder"
pip=("$folder/bin/pip" install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" torch==2.13.0
"${pip[@]}" numpy==1.26.4 scipy==1.11.4 pandas==2.1.4 scikit-learn==1.4.2 'setuptools<81' future fsspec mrcfile pillow
"${pip[@]}" --no-deps topaz-em==0.2.5
"$folder/bin/topaz" --version
