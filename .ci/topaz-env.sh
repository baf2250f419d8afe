#!/usr/bin/env bash
# Makes a separate virtual environment with Topaz: .ci/topaz-env.sh FOLDER
# Topaz 0.2.5 gives no versions of its requirements. The versions below are of the time of NumPy 1. Topaz also asks for
# torchvision, which its commands do not need (--no-deps). See .ci/cryodrgn-env.sh for torch and --no-compile.
set -eu
folder=$1
[ -x "$folder/bin/topaz" ] && exit 0
python3 -m venv "$folder"
pip=("$folder/bin/pip" install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" torch==2.13.0
"${pip[@]}" numpy==1.26.4 scipy==1.11.4 pandas==2.1.4 scikit-learn==1.4.2 'setuptools<81' future fsspec mrcfile pillow
"${pip[@]}" --no-deps topaz-em==0.2.5
"$folder/bin/topaz" --version
